"""Values that a notebook would refuse are refused before anything starts."""

import pytest

from mednb import methods
from mednb.study.values import NAMED, faults, names


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("dataset", "busi+bsi", "there is no dataset 'bsi'; did you mean 'busi'?"),
        ("method", "simcrl", "there is no method 'simcrl'; did you mean 'simclr'?"),
        ("encoder", "resnet19", "did you mean 'resnet18'?"),
        ("pairs", "same_imag", "did you mean 'same_image'?"),
        ("views", "ultrasond", "did you mean 'ultrasound'?"),
        ("tasks", ["knn", "lineer"], "there is no tasks 'lineer'; did you mean 'linear'?"),
        ("initialise", "decoder", "Choose from encoder, encoder-decoder"),
        ("fold", 5, "there is no fold 5; Choose from 0, 1, 2, 3, 4"),
        ("fractions", [5, 0.1], "5 is no share of the labels"),
        ("more", {"arround": "lesion"}, "load takes no 'arround'; did you mean 'around'?"),
        ("more", {"fold": 3}, "load takes no 'fold'"),  # a parameter of its own
        ("how", {"acumulate": 2}, "fit takes no 'acumulate'; did you mean 'accumulate'?"),
    ],
)
def test_a_wrong_value_is_a_sentence_that_offers_the_choices(name, value, said):
    (fault,) = faults(name, value)
    assert said in fault


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "busi+busbra"),
        ("views", "by_modality"),
        ("tasks", ["knn", "finetune"]),
        ("fractions", [0.01, 1.0]),
        ("fold", 4),
        ("more", {"around": "lesion", "table": "my.csv", "balance": "organ"}),
        ("how", {"accumulate": 2, "devices": 2, "stop_on_collapse": True}),
        ("epochs", 3),
    ],
)
def test_a_right_value_has_no_fault(name, value):
    assert not list(faults(name, value))


def test_the_names_of_methods_are_those_of_their_files():
    assert names("method") == sorted(methods.METHODS)
    assert all(names(each) for each in NAMED)
