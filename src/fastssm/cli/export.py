"""`fastssm export`: a trained model as graphs that run without fastssm."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastssm.cli.options import add_command
from fastssm.training import load
from fastssm.training.exporting import export

DESCRIPTION = """\
Write the energy and the score of a trained model as graphs that take rows in data units, [n, D] in float64, and run
without fastssm. Each graph is compared with the model.
"""
EPILOG = "example: fastssm export runs/measurements --onnx --out graphs"


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "export", "a trained model for torch.export or ONNX", DESCRIPTION)
    parser.epilog = EPILOG
    parser.add_argument("model", type=Path, metavar="RUN", help="output folder of fastssm train")
    parser.add_argument("--torch-export", action="store_true", help="write energy.pt2 and score.pt2")
    parser.add_argument("--onnx", action="store_true", help="write energy.onnx and score.onnx; needs onnxscript")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: RUN)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    forms = [form for form, wanted in (("torch-export", args.torch_export), ("onnx", args.onnx)) if wanted]
    if not forms:
        raise ValueError("pass --torch-export, --onnx or both")
    model = load(args.model)
    for form in forms:
        try:
            files, checked = export(model, args.out or args.model, form)
        except ImportError as error:
            raise ValueError(str(error)) from None
        for path in files.values():
            print(f"{path}: {checked}")
    return 0
