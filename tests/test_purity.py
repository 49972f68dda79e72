"""Operations and modules do not ask which machine they are traced on."""

import pathlib
import re

import sft_jax

PACKAGE = pathlib.Path(sft_jax.__file__).parent
QUESTIONS = r"default_backend|device_count|process_count|process_index|jax\.devices|local_devices"


def test_no_operation_or_module_asks_its_host():
    files = [path for room in ("ops", "modules") for path in (PACKAGE / room).glob("**/*.py")]
    assert len(files) > 20
    asking = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(QUESTIONS, line)
    ]
    assert not asking
