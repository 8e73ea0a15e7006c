"""How many floating-point operations a scan asks of the machine, by stage and type of number.

    python -m benchmarks.speed_flops SHARDS --preset default --cache-dir DIR

The last line on stdout is JSON: {stage: {dtype: operations}}. A scan runs under a counter that sees every operator of
torch, so nothing is known here of how the stages work. Multiplications and additions count each, of matrix products
and convolutions alone. Compiled and captured graphs hide their operators: compilation is therefore off, and the scan
runs on the processor. Work on other threads than the main one is not seen.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import vbdguard

Flops = dict[str, dict[str, int]]
"""Operations by stage and by type of number, such as bfloat16."""
OUTSIDE = "outside"
"""What no stage has announced."""


class FlopsByStage(TorchDispatchMode):
    """A context that counts; it listens to a scan's progress to know the stage."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self._stages = [OUTSIDE]
        self._counts: dict[str, Counter[str]] = {}

    @property
    def flops(self) -> Flops:
        """What was counted so far."""
        return {stage: dict(counts) for stage, counts in self._counts.items()}

    def begin(self, stage: str, total: int | None) -> None:  # noqa: ARG002 - the signature of a progress listener
        """Enter a stage."""
        self._stages.append(stage)

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""

    def end(self) -> None:
        """Leave the stage."""
        self._stages.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is None and isinstance(func, torch._ops.OpOverload):
            # Under inference mode composite operators come whole; their parts are what is counted.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            dtype = str(next(arg.dtype for arg in args if isinstance(arg, torch.Tensor))).removeprefix("torch.")
            self._counts.setdefault(self._stages[-1], Counter())[dtype] += formula(*args, **kwargs, out_val=out)
        return out


def count(source: Any, *, preset: str, seed: int, cache_dir: Path | None) -> Flops:
    """Return the operations of a scan of a source, on the processor.

    Args:
        source: as `vbdguard.scan` takes it.
        preset: `default` or `paper`.
        seed: of the scan.
        cache_dir: where pixels may already lie; the report is computed anew.
    """
    config = vbdguard.ScanConfig(preset=preset, seed=seed, device="cpu")  # type: ignore[arg-type]  # checked there
    counter = FlopsByStage()
    kept = {"cache_dir": cache_dir, "use_cache": cache_dir is not None, "refresh": True}
    with torch.compiler.set_stance("force_eager"), counter:
        vbdguard.scan(source, config, progress=counter, **kept)  # type: ignore[arg-type]  # a bag of two types
    return counter.flops


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-dir", type=Path)
    args = parser.parse_args()
    print(json.dumps(count(args.source, preset=args.preset, seed=args.seed, cache_dir=args.cache_dir)))


if __name__ == "__main__":
    main()
