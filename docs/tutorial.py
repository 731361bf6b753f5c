# %% [markdown]
# # A timm network, fine-tuned to 90 % zeros, exported, compiled, timed
#
# On photographs that scikit-image and scikit-learn bring along, without a network connection, in
# less than a minute on a CPU. The same from the command line, with your own images:
# [own networks](own-network.md). It needs, in the checkout,
# `pip install '.[engine,timm]' scikit-image scikit-learn`.

# %%
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import skimage
import sklearn
from PIL import Image

import strzoo

folder = Path(tempfile.mkdtemp(prefix="strzoo-tutorial-"))

# %% [markdown]
# ## The images
#
# Windows of four photographs, a folder for each class, in `train` and `val`. They are of the same
# photographs, so the accuracy below says that everything works, not how well cats are recognised.

# %%
shipped = {
    "cat": Path(skimage.__file__).parent / "data" / "chelsea.png",
    "coffee": Path(skimage.__file__).parent / "data" / "coffee.png",
    "rocket": Path(skimage.__file__).parent / "data" / "rocket.jpg",
    "flower": Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg",
}
random = np.random.default_rng(0)
for name, file in shipped.items():
    photograph = Image.open(file).convert("RGB")
    for number in range(40):
        place = folder / "photos" / ("val" if number < 10 else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        left = int(random.integers(photograph.width - 160))
        top = int(random.integers(photograph.height - 160))
        window = photograph.crop((left, top, left + 160, top + 160))
        window.resize((54, 54)).save(place / f"{number}.jpg")

# %% [markdown]
# ## The dense network
#
# A small network of timm, begun at random weights because this page fetches nothing; with
# `architecture="timm:mobilenetv2_100", pretrained=True` it begins at timm's.

# %%
common = {
    "data": str(folder / "photos"), "image_size": 48, "batch_size": 16, "workers": 0,
    "warmup_epochs": 0, "tensorboard": False,
}  # fmt: skip
config = replace(
    strzoo.load_recipe("finetune_dense"), architecture="timm:test_resnet", epochs=5,
    learning_rate=0.05, output=str(folder / "dense"), **common,
)  # fmt: skip
dense = strzoo.train(config)
print(f"dense: top-1 {dense.best.top1:.1f} %")

# %% [markdown]
# ## 90 % zeros
#
# STR learns a threshold for each layer, a controller brings the network to the target, and the
# dense network is the teacher.

# %%
start = str(folder / "dense" / "best_dense.pth")
config = replace(
    strzoo.load_recipe("finetune"), start_from=start, teacher=start, target_sparsity=0.9, epochs=6,
    learning_rate=0.05, output=str(folder / "sparse"), **common,
)  # fmt: skip
sparse = strzoo.train(config)
report = strzoo.report(folder / "sparse")
print(f"sparse: top-1 {sparse.best.top1:.1f} %, {report.sparsity:.2f} % zeros")
print(f"MACs: {report.sparse_macs / report.dense_macs:.2f} of the dense network's")

# %% [markdown]
# ## Without training
#
# What the network loses if it is pruned at once, by second-order statistics of the images.

# %%
pruned = strzoo.prune(
    start, folder / "photos", 0.9, images=48, validation=folder / "photos", workers=0
)
print(f"pruned at once: top-1 {pruned.after.top1:.1f} %, {pruned.sparsity:.2f} % zeros")

# %% [markdown]
# ## Out of torch: ONNX, and machine code that skips the zeros

# %%
exported = strzoo.export_onnx(folder / "sparse", folder / "model.onnx")
compiled = strzoo.compile(folder / "model.onnx", threads=1, cache=False)
compiled.save(folder / "model.strz")
in_torch, in_onnx, in_engine = (
    strzoo.evaluate(model, folder / "photos", workers=0)
    for model in (folder / "sparse", folder / "model.onnx", compiled)
)
print(f"top-1: torch {in_torch.top1:.1f} %, onnxruntime {in_onnx.top1:.1f} %, "
      f"engine {in_engine.top1:.1f} %")  # fmt: skip

# %% [markdown]
# ## How fast
#
# onnxruntime computes with the zeros too, so it takes as long as for the dense network. Both run in
# turn, so that a slow moment hits both. `strzoo benchmark` and `strzoo tradeoff` measure more.

# %%
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
image = np.random.default_rng(0).standard_normal((1, 3, 48, 48), dtype=np.float32)
times = []
for _ in range(30):
    begun = time.perf_counter()
    session.run(None, {"images": image})
    between = time.perf_counter()
    compiled(image)
    times.append((between - begun, time.perf_counter() - between))
slow, fast = 1000 * np.median(times, axis=0)
print(f"onnxruntime {slow:.2f} ms, engine {fast:.2f} ms: {slow / fast:.1f} times as fast")
