import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from penchant.data.tokens import load_tokenizer
from penchant.errors import ModelError


@pytest.fixture
def model(tmp_path):
    """A model folder with a tokenizer of whole words that reads three of them."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", model_max_length=3)
    tokenizer.save_pretrained(tmp_path / "model" / "tokenizer")
    return tmp_path / "model"


def test_the_tokenizer_of_a_pipeline_or_of_its_own_folder_is_loaded(model):
    for folder in (model, model / "tokenizer"):
        tokenizer = load_tokenizer(folder)
        assert tokenizer.model_max_length == 3
        assert tokenizer("cat a cat cat")["input_ids"] == [1, 0, 1, 1]


def test_a_pipeline_that_has_the_second_tokenizer_alone(model):
    (model / "tokenizer").rename(model / "tokenizer_2")
    assert load_tokenizer(model).model_max_length == 3


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError) as error:
        load_tokenizer(tmp_path / "lost")
    assert str(error.value) == (
        f"{tmp_path}/lost: no such folder. Give the folder of a model or of its tokenizer."
    )


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(ModelError) as error:
        load_tokenizer(tmp_path)
    assert str(error.value) == (f"{tmp_path}: no tokenizer could be loaded. Is tokenizer_config.json there?")
