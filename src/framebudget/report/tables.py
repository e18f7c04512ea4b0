"""Tables in LaTeX, for venues that want it. They need the package booktabs."""

import pandas as pd


def latex(table: pd.DataFrame, caption: str) -> str:
    return table.to_latex(index=False, escape=True, float_format="%.3f", na_rep="–", caption=caption)
