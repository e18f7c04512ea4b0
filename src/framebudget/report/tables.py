"""Tables for a venue that takes LaTeX."""

import pandas as pd


def latex(table: pd.DataFrame, caption: str) -> str:
    """The table in LaTeX; needs the package booktabs."""
    return table.to_latex(index=False, escape=True, float_format="%.3f", na_rep="–", caption=caption)
