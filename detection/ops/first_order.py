"""Operations that can be differentiated once: a second derivative is refused in one sentence."""

from typing import Any


def refuse_second_derivative(backward: Any, steps: str | None = None) -> None:
    """Make the gradient of a backward pass raise a `NotImplementedError`, where PyTorch would ask for a formula.

    Args:
        backward: a custom operation, whose name ends in `_backward`.
        steps: the function that computes the same step by step with `backend="steps"`; None if there is none.
    """
    name = backward._qualname.removeprefix("detection::").removesuffix("_backward")
    instead = f", or call `{steps}` with backend='steps', which is slower" if steps else ""

    def refuse(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(f"{name}: its operation has no second derivative; differentiate once{instead}.")

    backward.register_autograd(refuse)
