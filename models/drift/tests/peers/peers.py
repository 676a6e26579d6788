"""What SciPy, Evidently and River say of the data of `cases.py`, as JSON on standard output.

peers.py two_sample FIRST COUNT     SciPy's statistics and, for the distances, those of the installed Evidently
peers.py evidently FIRST COUNT KEEP  decisions of the installed Evidently, and the whole report of the first KEEP tables
peers.py river FIRST COUNT          indices of all alarms of River's detectors at their defaults
peers.py time ROWS CURRENT COLUMNS ROUNDS  seconds of the installed Evidently's preset, nothing but its run
peers.py process REFERENCE CURRENT  the installed Evidently's report of two CSV files, as its user's script would make it
"""

import json
import math
import sys
import warnings

import cases

warnings.filterwarnings("ignore")


def two_sample(case):
    import numpy as np
    import pandas as pd
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType
    from scipy import stats

    r, c = (np.array([v for v in side if math.isfinite(v)]) for side in cases.pair(case))
    out = dict(case)
    ks = stats.ks_2samp(r, c)
    cvm = stats.cramervonmises_2samp(r, c)
    out["ks"] = [ks.statistic, ks.pvalue]
    out["cvm"] = [cvm.statistic, cvm.pvalue]
    try:
        ad = stats.anderson_ksamp([r, c])
        out["ad"] = [ad[0], ad[2]]
    except ValueError:
        out["ad"] = None
    out["energy"] = stats.energy_distance(r, c)
    out["wasserstein_plain"] = stats.wasserstein_distance(r, c)
    names = {"wasserstein": "wasserstein", "psi": "psi", "kl_div": "kl", "jensenshannon": "js", "hellinger": "hellinger"}
    if case["shape"] in ("ties", "few", "two"):
        names["chisquare"] = "chi_square"
    if case["shape"] == "two":
        names["z"] = "z"
    for name, key in names.items():
        kind = ColumnType.Categorical if key in ("chi_square", "z") else ColumnType.Numerical
        r1, c1 = pd.Series(r), pd.Series(c)
        out[key] = float(get_stattest(r1, c1, kind, name)(r1, c1, kind, 0.1).drift_score)
    return {k: [float(x) for x in v] if isinstance(v, list) else v for k, v in out.items()}


def run_evidently(reference, current):
    """The report as the library writes it, and for each column [test, threshold, score, drifted]."""
    try:
        from evidently import Report
        from evidently.presets import DataDriftPreset

        snapshot = Report([DataDriftPreset()], include_tests=True).run(current, reference)
        whole = json.loads(snapshot.json())
        status = {t["metric_config"]["metric_id"]: t["status"] for t in whole["tests"]}
        plain = json.loads(Report([DataDriftPreset()]).run(current, reference).json())
        columns = {
            m["config"]["column"]: [
                m["config"]["method"], m["config"]["threshold"], m["value"], status[m["id"]] == "FAIL"
            ]
            for m in whole["metrics"][1:]
        }
        count = whole["metrics"][0]["value"]
        return plain, columns, [count["count"], count["share"], status[whole["metrics"][0]["id"]] == "FAIL"]
    except ImportError:
        from evidently.metric_preset import DataDriftPreset
        from evidently.report import Report

        report = Report(metrics=[DataDriftPreset()])
        report.run(reference_data=reference, current_data=current)
        whole = json.loads(report.json())
        whole.pop("timestamp")
        result = whole["metrics"][1]["result"]
        columns = {
            name: [c["stattest_name"], c["stattest_threshold"], c["drift_score"], c["drift_detected"]]
            for name, c in result["drift_by_columns"].items()
        }
        data = [result["number_of_drifted_columns"], result["share_of_drifted_columns"], result["dataset_drift"]]
        return whole, columns, data


def evidently(case, keep):
    import pandas as pd

    reference, current = (pd.DataFrame(t) for t in cases.table(case))
    whole, columns, data = run_evidently(reference, current)
    return dict(case, decisions=columns, order=list(columns), data=data, report=whole if keep else None)


def river(case):
    from river import drift

    xs = cases.stream(case)
    detectors = {
        "adwin": drift.ADWIN(), "page_hinkley": drift.PageHinkley(), "kswin": drift.KSWIN(seed=42), "ddm": drift.binary.DDM(),
        "eddm": drift.binary.EDDM(), "hddm_a": drift.binary.HDDM_A(), "hddm_w": drift.binary.HDDM_W(),
    }
    bounded = case["kind"] == "share"
    binary = case["kind"] in ("errors", "fewer")
    alarms = {}
    for name, detector in detectors.items():
        if name in ("ddm", "eddm") and not binary or name.startswith("hddm") and not (binary or bounded):
            continue
        found = []
        for i, x in enumerate(xs):
            detector.update(int(x) if binary else x)
            if detector.drift_detected:
                found.append(i)
        alarms[name] = found
    return dict(case, alarms=alarms)


def seconds(rows, current, columns, rounds):
    import time

    import pandas as pd

    rng = cases.Random(1)
    tables = [
        pd.DataFrame({f"c{k}": [rng.normal() for _ in range(n)] for k in range(columns)}) for n in (rows, current)
    ]
    try:
        from evidently import Report
        from evidently.presets import DataDriftPreset

        def run():
            Report([DataDriftPreset()]).run(tables[1], tables[0]).json()
    except ImportError:
        from evidently.metric_preset import DataDriftPreset
        from evidently.report import Report

        def run():
            report = Report(metrics=[DataDriftPreset()])
            report.run(reference_data=tables[0], current_data=tables[1])
            report.json()

    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return sorted(times)


def process(reference, current):
    import pandas as pd

    tables = [pd.read_csv(file) for file in (reference, current)]
    try:
        from evidently import Report
        from evidently.presets import DataDriftPreset

        print(Report([DataDriftPreset()]).run(tables[1], tables[0]).json())
    except ImportError:
        from evidently.metric_preset import DataDriftPreset
        from evidently.report import Report

        report = Report(metrics=[DataDriftPreset()])
        report.run(reference_data=tables[0], current_data=tables[1])
        print(report.json())


def main():
    what, *numbers = sys.argv[1:]
    if what == "process":
        return process(*numbers)
    numbers = [int(n) for n in numbers]
    if what == "two_sample":
        out = [two_sample(c) for c in cases.two_sample_cases(*numbers)]
    elif what == "evidently":
        out = [evidently(c, i < numbers[2]) for i, c in enumerate(cases.table_cases(*numbers[:2]))]
    elif what == "river":
        out = [river(c) for c in cases.stream_cases(*numbers)]
    else:
        out = seconds(*numbers)
    json.dump(out, sys.stdout)


main()
