import pytest

from mlx_lora.errors import UserError
from mlx_lora.retrieval.minilm import model_directory


@pytest.fixture(scope="session")
def model_files():
    """The directory of all-MiniLM-L6-v2's files; skips where its package is not installed."""
    try:
        return model_directory()
    except UserError as error:
        pytest.skip(str(error))
