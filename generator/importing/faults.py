"""What pydantic found wrong, in one line."""

from pydantic import ValidationError


def fields_at_fault(error: ValidationError, inside: int = 0) -> str:
    """Each field at fault, by its path below the outermost ``inside`` levels, and why."""
    faults = (
        f"{'.'.join(map(str, fault['loc'][inside:])) or 'file'}: {fault['msg']}"
        for fault in error.errors()
    )
    return "; ".join(faults)
