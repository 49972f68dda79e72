"""Writes archives and outcomes of PhysioNet 2012 in the published format, of made-up numbers."""

import io
import pathlib
import tarfile

import numpy as np

FIRST = {"a": 132539, "b": 142675, "c": 152871}
HEADER = "Time,Parameter,Value"


def lines_of(random, number, died, unit=True):
    """Makes up the lines of a stay; deaths have a faster heart and more lactate."""
    lines = [HEADER, f"00:00,RecordID,{number}", f"00:00,Age,{random.integers(20, 91)}"]
    lines += [f"00:00,Gender,{random.integers(0, 2)}", "00:00,Height,-1", "00:00,Weight,81.5"]
    lines += [f"00:00,ICUType,{random.integers(1, 5)}"] if unit else []
    for hour in range(random.integers(3, 8)):
        lines.append(f"{hour:02d}:07,HR,{random.normal(80 + 30 * died, 5):.0f}")
        lines.append(f"{hour:02d}:07,Temp,{random.normal(37, 0.5):.1f}")
    lines.append(f"01:30,Lactate,{random.normal(2 + 3 * died, 0.3):.1f}")
    return lines


def write(folder, stays=15, seed=0, sets="abc", changes=None):
    """Writes the files of each set.

    Args:
      folder: Folder of the files; made if it does not exist.
      stays: Number of stays of each set; every third dies.
      seed: Seed of the numbers.
      sets: Letters of the sets. As in some copies, set a lacks the unit.
      changes: Number of a stay to its lines, for those that differ.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in sets:
        random = np.random.default_rng([seed, ord(name)])
        outcomes = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
        with tarfile.open(folder / f"set-{name}.tar.gz", "w:gz") as archive:
            for i in range(stays):
                number, died = FIRST[name] + i, int(i % 3 == 0)
                lines = lines_of(random, number, died, unit=name != "a")
                content = "\n".join([*(changes or {}).get(number, lines), ""]).encode()
                member = tarfile.TarInfo(f"set-{name}/{number}.txt")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                outcomes.append(f"{number},6,1,{5 + i if i else -1},-1,{died}")
        (folder / f"Outcomes-{name}.txt").write_text("\n".join([*outcomes, ""]))
