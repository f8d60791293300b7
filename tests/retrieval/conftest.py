import pytest
from small_index import make_index, open_index

from mlx_lora.errors import UserError
from mlx_lora.retrieval.minilm import model_directory


@pytest.fixture(scope="session")
def model_files():
    """The directory of all-MiniLM-L6-v2's files; skips where its package is not installed."""
    try:
        return model_directory()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """The directory of the small index, which tests read and leave as it is."""
    return make_index(tmp_path_factory.mktemp("small"))


@pytest.fixture
def index(directory):
    """The small index, opened for reading."""
    with open_index(directory) as opened:
        yield opened
