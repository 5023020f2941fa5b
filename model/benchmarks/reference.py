"""References on the same rows and features as `model benchmark`: LightGBM, random forest, plain MLP. Not run in CI.

    python -m venv venv; venv/bin/pip install scikit-learn lightgbm pandas
    model benchmark all --data DIR --sheets SHEETS
    venv/bin/python reference.py SHEETS [LightGBM "random forest" "plain MLP"]
    model benchmark all --data DIR --references SHEETS

Without names all of them learn; a forest of Azure's rows takes hours. A sheet has a column for each feature, `label.NAME` for what is asked, and `split.N`: for each number in it that is not negative a
model learns from the rows with another one and is asked of those with this one. Next to each sheet goes a JSON file of what was
said: by reference, run, label and row that was asked.
"""

import json
import pathlib
import sys
import warnings

import lightgbm
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
SEED = 7
CAP = 125
HIDDEN = (32, 64, 32)


def scaled(model):
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), model)


CLASSES = {
    "LightGBM": lambda seed: lightgbm.LGBMClassifier(random_state=seed, verbose=-1, n_jobs=1),
    "random forest": lambda seed: make_pipeline(
        SimpleImputer(keep_empty_features=True), RandomForestClassifier(500, random_state=seed, n_jobs=1)
    ),
    "plain MLP": lambda seed: scaled(MLPClassifier(hidden_layer_sizes=HIDDEN, early_stopping=True, random_state=seed)),
}
NUMBERS = {
    "LightGBM": lambda seed: lightgbm.LGBMRegressor(
        n_estimators=300, learning_rate=0.03, num_leaves=31, subsample=0.7, subsample_freq=1,
        colsample_bytree=0.5, random_state=seed, verbose=-1, n_jobs=1,
    ),
    "plain MLP": lambda seed: scaled(MLPRegressor(hidden_layer_sizes=HIDDEN, early_stopping=True, random_state=seed)),
}


def answers(sheet, make, seeds, numbers):
    labels = [c for c in sheet if c.startswith("label.")]
    splits = [c for c in sheet if c.startswith("split.")]
    x = sheet.drop(columns=labels + splits).to_numpy()
    runs = []
    for split, seed in ((split, seed) for split in splits for seed in seeds):
        part = sheet[split].to_numpy()
        said = np.full((len(labels), len(sheet)), np.nan)
        for number in sorted(set(part[part >= 0])):
            learnt, asked = ~np.isnan(part) & (part != number), part == number
            for i, label in enumerate(labels):
                y = sheet[label].to_numpy()[learnt]
                if numbers:
                    model = make(seed).fit(x[learnt], np.minimum(y, CAP))
                    said[i, asked] = np.minimum(model.predict(x[asked]), CAP)
                else:
                    said[i, asked] = make(seed).fit(x[learnt], y).predict_proba(x[asked])[:, 1]
        runs.append(said[:, part >= 0].tolist())
    return runs


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    for path in sorted(pathlib.Path(folder).glob("*.csv")):
        sheet = pd.read_csv(path)
        numbers = path.stem == "cmapss"
        seeds = range(SEED, SEED + 5) if numbers else [SEED]
        said = {}
        for name, make in (NUMBERS if numbers else CLASSES).items():
            if names and name not in names:
                continue
            said[name] = answers(sheet, make, seeds, numbers)
            print(path.stem, name, flush=True)
        path.with_suffix(".json").write_text(json.dumps(said))
