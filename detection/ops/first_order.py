"""Operations that can be differentiated once: a second derivative is refused in one sentence."""

from typing import Any


def refuse_second_derivative(backward: Any) -> None:
    """Make the gradient of a backward pass raise a `NotImplementedError`, where PyTorch would ask for a formula.

    Args:
        backward: a custom operation, whose name ends in `_backward`.
    """
    name = backward._qualname.removeprefix("detection::").removesuffix("_backward")

    def refuse(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(
            f"{name}: its operation has no second derivative; differentiate once, or use its steps, which are slower "
            "(backend='steps')."
        )

    backward.register_autograd(refuse)
