"""Compares what the example `export_cases` wrote with onnxruntime; writes the golden fixture.

pip install onnx onnxruntime numpy
python onnxruntime_check.py DIRECTORY [fixtures/onnxruntime.json]
"""
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

KEPT = 16  # windows whose outputs go into the fixture: each kind twice

directory = pathlib.Path(sys.argv[1])
fixture = {"onnxruntime": onnxruntime.__version__, "cases": {}}
worst_of_all = 0.0
for case in json.loads((directory / "cases.json").read_text()):
    name, n = case["name"], case["windows"]
    path = str(directory / f"{name}.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    read = lambda column, *shape: np.fromfile(directory / f"{name}.{column}.f64").reshape(n, *shape)
    feed = {
        "window": read("window", case["lookback"], case["inputs"]),
        "future": read("future", case["horizon"], case["future_width"]),
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = session.run(["mean", "quantiles"], feed)
    one_by_one = [session.run(["mean"], {k: v[i : i + 1] for k, v in feed.items()})[0][0] for i in range(KEPT)]
    apart = np.abs(one_by_one - theirs[0][:KEPT]) / (np.abs(theirs[0][:KEPT]) + case["train_dev"])
    assert apart.max() <= 1e-5, f"{name}: the batch size changes the result by {apart.max()}"
    for engine in ["fused", "tract", "trainer"]:
        ours = [
            read(f"{engine}.mean", case["horizon"]),
            read(f"{engine}.quantiles", case["horizon"], case["quantiles"]),
        ]
        worst = 0.0
        for output, a, b in zip(["mean", "quantiles"], ours, theirs):
            assert np.isfinite(b).all(), f"{name}: onnxruntime's {output} is not finite"
            assert np.isfinite(a).all(), f"{name}: the {output} of {engine} is not finite"
            worst = max(worst, (np.abs(a - b) / (np.abs(b) + case["train_dev"])).max())
        worst_of_all = max(worst, worst_of_all)
        print(f"{name}: {n} windows, {engine} at most {worst:.2e} x (|value| + training deviation) from onnxruntime")
    if case["large"]:
        continue  # too much for a fixture
    fixture["cases"][name] = {"mean": theirs[0][:KEPT].tolist(), "quantiles": theirs[1][:KEPT].reshape(KEPT, -1).tolist()}
assert worst_of_all <= 1e-5, worst_of_all
if len(sys.argv) > 2:
    pathlib.Path(sys.argv[2]).write_text(json.dumps(fixture) + "\n")
