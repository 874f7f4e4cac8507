"""Whether a study's settings can be had of the model's modules, and of the device that it is to run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compute.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from assets.specs.study import Study
    from compute.tracked_modules import TrackedModule


def check_settings(study: Study, modules: Sequence[TrackedModule], device: str) -> None:
    """Raises BadInput for a rank above a module's dimension, which would be full rank, and for a precision that the
    device has no instructions for."""
    check_ranks(study, modules)
    check_precisions(study, device)


def check_ranks(study: Study, modules: Sequence[TrackedModule]) -> None:
    options, smallest = study.spec.options, min(modules, key=_smaller_dimension)
    limit = _smaller_dimension(smallest)
    of_ablation = study.spec.ablation.ranks if study.spec.ablation else ()
    asked = [("options.rank", options.rank, "lower it, or write 'full'")]
    asked += [("options.ablation.ranks", rank, "leave it out: full rank is compared with") for rank in of_ablation]
    for field, rank, advice in asked:
        if isinstance(rank, int) and rank > limit:
            raise BadInput(f"{field}: {rank} is above {limit}, the smaller dimension of {smallest.name}; {advice}")


def _smaller_dimension(module: TrackedModule) -> int:
    return min(module.out_features, module.in_dim)


def check_precisions(study: Study, device: str) -> None:
    from compute.machine import lacks_instructions

    for field, precision, advice in _precisions(study):
        if lacks_instructions(device, precision):
            raise BadInput(
                f"{field}: {precision} has no instructions on this {device} device, where it would be slower than "
                f"float32; {advice}"
            )


def _precisions(study: Study) -> Iterator[tuple[str, str, str]]:
    """Each field with what it says, and what to write instead."""
    options = study.spec.options
    yield "model.dtype", study.spec.model.dtype, "write float16 or float32"
    yield "options.products", options.products, "write float32"
    for precision in study.spec.ablation.precisions if study.spec.ablation else ():
        yield "options.ablation.precisions", precision, "write []"
