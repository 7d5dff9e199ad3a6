import pytest

# what is at odds is printed
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("knowledge", "rollbacks", "truth"))
)
