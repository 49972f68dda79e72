"""Measurements of the challenge: the modality, plausible range and scale of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Code(NamedTuple):
    """A measurement.

    Attributes:
      lowest, highest: Plausible values; others are left out.
      log: Flag of a skewed measurement, whose values `x` are kept as `log(1 + x)`.
    """

    lowest: float
    highest: float
    log: bool = False


STATIC: Mapping[str, Code] = {
    "Age": Code(15, 90),
    "Gender": Code(0, 1),
    "Height": Code(100, 230),
    "Weight": Code(20, 300),
    "ICUType": Code(1, 4),
}
"""Descriptors of a stay: years, 1 for men, cm, kg, and a unit (`ICU_TYPES`)."""

ICU_TYPES = ("coronary", "cardiac surgery", "medical", "surgical")
"""Intensive care units, numbered from 1."""

VITALS: Mapping[str, Code] = {
    "GCS": Code(3, 15),
    "HR": Code(10, 300),
    "DiasABP": Code(5, 200),
    "MAP": Code(10, 250),
    "SysABP": Code(20, 300),
    "NIDiasABP": Code(5, 200),
    "NIMAP": Code(10, 250),
    "NISysABP": Code(20, 300),
    "RespRate": Code(1, 100),
    "Temp": Code(25, 45),
    "Urine": Code(0, 5000, log=True),
    "Weight": Code(20, 300),
    "FiO2": Code(0.21, 1),
    "MechVent": Code(1, 1),
}
"""Vital signs and nursing; weight counts here from its second value on."""

LABS: Mapping[str, Code] = {
    "ALP": Code(1, 6000, log=True),
    "ALT": Code(1, 40_000, log=True),
    "AST": Code(1, 40_000, log=True),
    "Albumin": Code(0.5, 7),
    "BUN": Code(1, 300, log=True),
    "Bilirubin": Code(0.05, 100, log=True),
    "Cholesterol": Code(10, 600),
    "Creatinine": Code(0.05, 30, log=True),
    "Glucose": Code(5, 2000, log=True),
    "HCO3": Code(2, 60),
    "HCT": Code(5, 75),
    "K": Code(1, 15, log=True),
    "Lactate": Code(0.1, 40, log=True),
    "Mg": Code(0.2, 15, log=True),
    "Na": Code(80, 200),
    "PaCO2": Code(5, 200, log=True),
    "PaO2": Code(10, 600, log=True),
    "Platelets": Code(1, 2500, log=True),
    "SaO2": Code(20, 100),
    "TroponinI": Code(0.01, 100, log=True),
    "TroponinT": Code(0.005, 50, log=True),
    "WBC": Code(0.05, 500, log=True),
    "pH": Code(6.5, 8),
}
"""Values of the laboratory, those of blood gases included."""

EVENTS: Mapping[str, Mapping[str, Code]] = {"vitals": VITALS, "labs": LABS}
"""Modalities of measurements over time."""
