"""References on the same rows as `model benchmark`: LightGBM, random forest, plain MLP. Not run in CI.

    python -m venv venv; venv/bin/pip install scikit-learn lightgbm pandas
    model benchmark ai4i --data DIR --json ai4i.json
    venv/bin/python reference.py ai4i --data DIR --json ai4i.json
    venv/bin/python reference.py cmapss --data DIR

AI4I's folds come from the JSON file. C-MAPSS has features like those of cmapss-features.toml, worked out here on their own.
"""

import argparse
import json
import warnings

import lightgbm
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score, matthews_corrcoef
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
SEED = 7
CAP = 125
WINDOWS = (10, 30, 60)
SENSORS = [2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21]


def ai4i_features(data, engineered):
    frame = pd.read_csv(f"{data}/ai4i2020/ai4i2020.csv")
    x = pd.DataFrame(
        {
            "air": frame["Air temperature [K]"],
            "process": frame["Process temperature [K]"],
            "speed": frame["Rotational speed [rpm]"],
            "torque": frame["Torque [Nm]"],
            "wear": frame["Tool wear [min]"],
        }
    )
    if engineered:
        limit = frame["Type"].map({"L": 11000, "M": 12000, "H": 13000})
        x["difference"] = x["process"] - x["air"]
        x["power"] = x["torque"] * x["speed"] * 2 * np.pi / 60
        x["strain"] = x["wear"] * x["torque"]
        x["overstrain"] = x["strain"] / limit
    for kind in "LMH":
        x[f"type {kind}"] = (frame["Type"] == kind).astype(float)
    return x.to_numpy(), frame["Machine failure"].to_numpy()


def ai4i(data, path):
    reports = json.load(open(path))
    models = {
        "LightGBM": lambda: lightgbm.LGBMClassifier(random_state=SEED, verbose=-1, n_jobs=1),
        "random forest": lambda: RandomForestClassifier(500, random_state=SEED, n_jobs=1),
        "plain MLP": lambda: make_pipeline(
            StandardScaler(), MLPClassifier(hidden_layer_sizes=(32, 64, 32), early_stopping=True, random_state=SEED)
        ),
    }
    for report in (r for r in reports if r["benchmark"].startswith("AI4I")):
        x, y = ai4i_features(data, "engineered" in report["benchmark"])
        print(report["benchmark"])
        for name, make in models.items():
            folds = [np.array(fold) - 1 for fold in report["folds"]]
            repeats = [folds[:5], folds[5:]]
            scores = []
            for repeat in repeats:
                said = np.zeros(len(y))
                for test in repeat:
                    train = np.setdiff1d(np.arange(len(y)), test)
                    said[test] = make().fit(x[train], y[train]).predict(x[test])
                scores.append((f1_score(y, said), matthews_corrcoef(y, said)))
            f1, mcc = np.mean(scores, axis=0)
            print(f"  {name:<16} F1 {f1:.3f}  MCC {mcc:.3f}", flush=True)


def cmapss_features(path):
    columns = ["unit", "cycle", "a", "b", "c"] + [f"s{i}" for i in range(1, 22)]
    frame = pd.read_csv(path, sep=r"\s+", header=None, names=columns)
    names = [f"s{i}" for i in SENSORS]
    parts = [frame[names], frame[["cycle"]]]
    for window in WINDOWS:
        grouped = frame.groupby("unit")[names].rolling(window, min_periods=1)
        mean, std = grouped.mean().reset_index(drop=True), grouped.std().fillna(0).reset_index(drop=True)
        half = frame.groupby("unit")[names].rolling(window // 2, min_periods=1).mean().reset_index(drop=True)
        parts += [mean.add_suffix(f" mean {window}"), std.add_suffix(f" std {window}")]
        parts += [(half - mean).add_suffix(f" trend {window}")]
    since_first = frame.groupby("unit")[names].expanding().mean().reset_index(drop=True)
    parts += [since_first.add_suffix(" since first")]
    return frame, pd.concat(parts, axis=1).to_numpy()


def cmapss(data):
    train, x = cmapss_features(f"{data}/cmapss/train_FD001.txt")
    test, tested = cmapss_features(f"{data}/cmapss/test_FD001.txt")
    left = (train.groupby("unit")["cycle"].transform("max") - train["cycle"]).clip(upper=CAP)
    last = test.groupby("unit")["cycle"].idxmax()
    truth = np.loadtxt(f"{data}/cmapss/RUL_FD001.txt")
    models = {
        "LightGBM": lambda seed: lightgbm.LGBMRegressor(
            n_estimators=300, learning_rate=0.03, num_leaves=31, subsample=0.7, subsample_freq=1,
            colsample_bytree=0.5, random_state=seed, verbose=-1, n_jobs=1,
        ),
        "plain MLP": lambda seed: make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(32, 64, 32), early_stopping=True, random_state=seed)
        ),
    }
    for name, make in models.items():
        errors = []
        for seed in range(SEED, SEED + 5):
            said = np.minimum(make(seed).fit(x, left).predict(tested[last]), CAP)
            errors.append([np.sqrt(np.mean((said - t) ** 2)) for t in (np.minimum(truth, CAP), truth)])
        capped, uncapped = np.mean(errors, axis=0)
        print(f"  {name:<16} RMSE {capped:.2f}  uncapped {uncapped:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=["ai4i", "cmapss"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if arguments.which == "ai4i":
        ai4i(arguments.data, arguments.json)
    else:
        cmapss(arguments.data)
