"""About two seconds of numpy and pandas: products, sorting, grouping, text in and out."""

import io

import numpy as np
import pandas as pd

random = np.random.default_rng(1)
matrix = random.standard_normal((500, 500))
for _ in range(20):
    matrix = matrix @ matrix
    matrix /= np.abs(matrix).max()
np.sort(random.standard_normal(2_000_000))
frame = pd.DataFrame({"key": random.integers(0, 500, 200_000), "value": random.standard_normal(200_000)})
grouped = frame.groupby("key").value.agg(["mean", "std", "count"])
text = frame.to_csv(index=False)
back = pd.read_csv(io.StringIO(text))
merged = back.merge(grouped, left_on="key", right_index=True)
assert len(merged) == len(frame)
