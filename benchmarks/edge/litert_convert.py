"""Converts a program in StableHLO text to a file for LiteRT, without TensorFlow.

python litert_convert.py watch.mlir watch.tflite
"""

import pathlib
import sys

from litert_converter import converter_api_ext as converter
from litert_converter.mlir import ir, passmanager

source, output = map(pathlib.Path, sys.argv[1:])
context = ir.Context()
converter.prepare_mlir_context(context)
context.allow_unregistered_dialects = True
with context, ir.Location.unknown():
    module = ir.Module.parse(source.read_text())
    passes = passmanager.PassManager("builtin.module")
    converter.run_convert_to_tfl_passes(module, passes, converter.ConvertToTFLConfig())
    output.write_bytes(converter.export_flatbuffer_to_bytes(module.operation))
