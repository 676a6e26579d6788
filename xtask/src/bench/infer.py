"""onnxruntime's side of `cargo xtask bench infer`: `check`, `time` or `memory` of one model, as JSON."""
import json
import pathlib
import sys
import time


def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])


def load(directory, name, part=""):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = str(directory / f"{name}{part}.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def about(directory, name):
    return next(m for m in json.loads((directory / "models.json").read_text()) if m["name"] == name)


def windows(directory, name):
    import numpy as np

    m = about(directory, name)
    read = lambda column, *shape: np.fromfile(directory / f"{name}.{column}.f64").reshape(m["windows"], 1, *shape)
    window, future = read("window", m["lookback"], m["inputs"]), read("future", m["horizon"], m["future_width"])
    return [{"window": w, "future": f} for w, f in zip(window, future)]


def measured(session, feeds, calls):
    times = []
    outputs = ["mean", "quantiles"]
    for i in range(calls):
        feed = feeds[i % len(feeds)]
        start = time.perf_counter_ns()
        session.run(outputs, feed)
        times.append(time.perf_counter_ns() - start)
    times.sort()
    return times[0], times[calls // 2]


def check(directory, name):
    import numpy as np

    m = about(directory, name)
    session = load(directory, name)
    worst = 0.0
    for i, feed in enumerate(windows(directory, name)):
        for output, found in zip(["mean", "quantiles"], session.run(["mean", "quantiles"], feed)):
            ours = np.fromfile(directory / f"{name}.{output}.f64").reshape(m["windows"], -1)[i]
            theirs = found.reshape(-1)
            assert np.isfinite(ours).all() and np.isfinite(theirs).all(), f"{name}: {output} of window {i} is not finite"
            worst = max(worst, (np.abs(ours - theirs) / (np.abs(theirs) + m["train_dev"])).max())
    return {"worst": worst}


def main(what, directory, name, calls="0"):
    directory = pathlib.Path(directory)
    if what == "check":
        return check(directory, name)
    if what == "memory":
        before = resident()
        session = load(directory, name)
        for _ in range(4):
            for feed in windows(directory, name):
                session.run(["mean", "quantiles"], feed)
        return {"before": before, "added": resident() - before}
    feeds = windows(directory, name)
    whole, call = load(directory, name), load(directory, name, ".call")
    least, median = measured(whole, feeds, int(calls))
    call_least, call_median = measured(call, feeds, int(calls))
    return {"min_ns": least, "median_ns": median, "call_min_ns": call_least, "call_median_ns": call_median}


print(json.dumps(main(*sys.argv[1:])))
