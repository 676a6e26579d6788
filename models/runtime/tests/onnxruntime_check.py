"""Compares what the example `export_cases` wrote with onnxruntime, and asks onnx's checker of every graph; exits 1 where anything is over
its bound. Called by `cargo xtask conformance onnx`, which brings the packages.

python onnxruntime_check.py DIRECTORY [FIXTURE]    with FIXTURE: writes what onnxruntime says of the small models there
"""
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

BOUND = 1e-5  # x (|value| + training deviation)
KEPT = 16  # windows whose outputs go into the fixture: each kind twice

directory = pathlib.Path(sys.argv[1])
fixture = {"onnxruntime": onnxruntime.__version__, "cases": {}}
worst, over = {}, []


def judge(name, what, ours, theirs, train_dev):
    """Largest difference over all outputs, held against the bound; a number that is not finite is over it."""
    apart = max(np.max(np.abs(a - b) / (np.abs(b) + train_dev)) for a, b in zip(ours, theirs))
    apart = float(apart) if np.isfinite(apart) else float("inf")
    worst[what] = max(worst.get(what, 0.0), apart)
    if apart > BOUND:
        over.append(f"{name}: {what} is {apart:.2e} from onnxruntime, {BOUND:.0e} is allowed")
    return apart


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}; largest difference in |value| + training deviation, at most {BOUND:.0e}")
print(f"{'model':16}{'windows':>8}{'fused':>10}{'tract':>10}{'trainer':>10}{'batch 1':>10}")
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
    line = []
    for engine in ["fused", "tract", "trainer"]:
        ours = [
            read(f"{engine}.mean", case["horizon"]),
            read(f"{engine}.quantiles", case["horizon"], case["quantiles"]),
        ]
        line.append(judge(name, engine, ours, theirs, case["train_dev"]))
    # The batch is dynamic, and its size must change nothing.
    alone = [session.run(["mean", "quantiles"], {k: v[i : i + 1] for k, v in feed.items()}) for i in range(min(KEPT, n))]
    alone = [np.concatenate(output) for output in zip(*alone)]
    line.append(judge(name, "batch 1", alone, [output[: len(alone[0])] for output in theirs], case["train_dev"]))
    print(f"{name:16}{n:8}" + "".join(f"{apart:10.1e}" for apart in line))
    if case["stored"]:
        kept = {"mean": theirs[0][:KEPT].tolist(), "quantiles": theirs[1][:KEPT].reshape(min(KEPT, n), -1).tolist()}
        fixture["cases"][name] = kept
print(f"{'largest':24}" + "".join(f"{worst[what]:10.1e}" for what in ["fused", "tract", "trainer", "batch 1"]))
if over:
    sys.exit("\n".join(over))
print("onnx.checker passes every graph")
if len(sys.argv) > 2:
    pathlib.Path(sys.argv[2]).write_text(json.dumps(fixture) + "\n")
