"""Values that a notebook would refuse are refused before anything starts."""

import pytest

from mednb import methods
from mednb.study.values import NAMED, faults, misset, names


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
        ("tasks", [], "the list is empty; give one value at least. Choose from finetune, knn, linear"),
        ("fractions", [], "the list is empty; give one value at least"),
        ("rates", [], "the list is empty"),
        ("lengths", [], "the list is empty"),
        ("fractions", [0.1, 1, 1.0], "1.0 stands in the list twice"),
        ("tasks", ["knn", "linear", "knn"], "'knn' stands in the list twice"),
        ("draws", 0, "0 is too few; it is 1 or more"),
        ("epochs", 0, "0 is too few"),
        ("size", 8, "8 is too few; it is 16 or more"),
        ("limit", 0, "0 is too few"),
        ("steps", -3, "-3 is too few"),
        ("seed", -1, "-1 is too few; it is 0 or more"),
        ("seed", 2**32, "4294967296 is too large; seeds are below 2^32"),
        ("out", " ", "it is empty; name a folder"),
        ("dataset", "busi+busbra+busi", "busi stands in the mix busi+busbra+busi twice"),
        ("rates", [1e-3, -0.1], "-0.1 is no rate, above 0"),
        ("rates", [float("nan")], "nan is no rate"),
        ("rates", [float("inf")], "inf is no rate"),
        ("lengths", [0.5, 5], "5 is no share of the steps, above 0 and up to 1"),
        ("more", {"across": 2}, "across is 2; it is a correlation, above 0 and up to 1, or None"),
        ("more", {"across": float("nan")}, "across is nan; it is a correlation"),
        ("more", {"across": "a"}, "across is 'a'; it is a correlation"),
        ("more", {"table": 5}, "table: 5 is no path of a CSV file"),
        ("more", {"arround": "lesion"}, "load takes no 'arround'; did you mean 'around'?"),
        ("more", {"fold": 3}, "load takes no 'fold'"),  # a parameter of its own
        ("more", {"resize": "squash"}, "resize is 'squash'; it is one of 'stretch', 'pad', 'crop_to_body'."),
        ("more", {"around": ["lesion"]}, "around is ['lesion']; it is one of None, 'lesion'"),
        ("more", {"window": "lungs"}, "window is 'lungs'; it is a name (lung, mediastinum"),
        ("more", {"bits": 12}, "bits is 12; it is one of 8, 16"),
        ("more", {"balance": "label"}, "balance: 'label'; Choose from modality, organ, source"),
        ("more", {"curate": "no"}, "curate: 'no' is no true or false; its default is False"),
        ("how", {"acumulate": 2}, "fit takes no 'acumulate'; did you mean 'accumulate'?"),
        ("how", {"accumulate": 0}, "accumulate: 0 is too few; it is 1 or more"),
        ("how", {"devices": "two"}, "devices: 'two' is no whole number; its default is 1"),
        ("how", {"replay": 1}, "replay: 1 is no true or false"),
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
        ("rates", [5e-4, 2e-3]),
        ("lengths", [0.5, 1]),
        ("seed", 2**32 - 1),
        ("more", {"around": "lesion", "table": "my.csv", "balance": "organ"}),
        ("more", {"window": [-100, 200], "bits": 16, "curate": True, "across": 0.5}),
        ("more", {"balance": None, "around": None}),
        ("how", {"accumulate": 2, "devices": 2, "stop_on_collapse": True}),
        ("epochs", 3),
    ],
)
def test_a_right_value_has_no_fault(name, value):
    assert not list(faults(name, value))


def test_the_names_of_methods_are_those_of_their_files():
    assert names("method") == sorted(methods.METHODS)
    assert all(names(each) for each in NAMED)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (
            "moco",
            {"temprature": 0.1},
            "no option 'temprature'; did you mean 'temperature'? Its options: width",
        ),
        ("moco", {"queue": "long"}, "queue: 'long' is no whole number; its default is 1024. Its options: width (whole"),
        ("spark", {"cell": 8.5}, "cell: 8.5 is no whole number"),
        ("spark", {"cell": 24}, "size: no cells of 12 to 24 pixels fill images of 50: take a multiple of 32"),
        ("spark", {"encoder": "resnet18"}, "spark has no option 'encoder'"),
        ("byol", {"lr": -1}, "lr is -1.0, and should be 0 or more"),
        ("byol", {"tau": 1.5}, "tau is 1.5, and should be from 0 to 1"),
        ("moco", {"temperature": 0}, "temperature is 0.0, and should be above 0"),
        ("moco", {"temperature": float("nan")}, "temperature is nan, and should be a finite number"),
        ("simclr", {"lr": float("inf")}, "lr is inf, and should be a finite number"),
        ("simclr", {"lr": 10**400}, "lr: it is too large; its default is 0.001"),
        ("vicregl", {"stride": 5}, "stride is 5, and should be one of 4, 8, 16, 32"),
        ("dino", {"epsilon": 0.001}, "epsilon is 0.001, and should be 0.003 or more"),
        ("swav", {"prototypes": 4}, "prototypes is 4, and should be at least 8"),
        ("moco", {"queue": 0}, "queue is 0, and should be at least 1"),
        ("spark", {"hidden": 1}, "hidden is 1.0, and should be between 0 and 1"),
        ("byol", {"optimiser": "adam"}, "optimiser 'adam' is unknown; choose one of adamw, sgd, lars"),
        ("none", {"lr": 0.1}, "none has no option 'lr'. Its options: none"),
    ],
)
def test_an_option_that_the_method_does_not_have_is_a_sentence_that_lists_those_it_has(method, options, said):
    (fault,) = misset({"method": method, "options": options, "size": 50})
    assert said in fault


def test_values_that_do_not_fit_each_other_are_found_out():
    (fault,) = misset({"method": "simclr", "encoder": "convnext_tiny", "size": 16})
    assert "size: convnext_tiny needs images of 32 pixels or more" in fault
    (fault,) = misset({"method": "swav", "encoder": "convnext_tiny", "size": 48, "options": {"small_crops": 2}})
    assert "the smallest here have 24" in fault
    assert not list(misset({"method": "simclr", "encoder": "convnext_tiny", "size": 32}))
    (fault,) = misset({"dataset": "busi+breastmnist"})
    assert "dataset: the images of breastmnist are also in busi" in fault
    assert not list(misset({"dataset": "busi+breastmnist", "more": {"across": 0.5}}))
    assert not list(misset({"dataset": "busi+busbra"}))


def test_every_method_says_what_can_be_set_and_takes_it():
    assert not list(misset({"method": "spark", "options": {"cell": 8}, "size": 64}))
    assert not list(misset({"method": "moco", "options": {"queue": 65536, "temperature": 1, "clip": 5, "lr": 1e-4}}))
    assert not list(misset({"method": "dino", "options": {"epsilon": None, "clip": None}}))
    assert not list(misset({"method": "swav", "options": {"queue": 0, "small_crops": 0, "prototypes": 8}}))
    for name, method in methods.METHODS.items():
        known = methods.options(name)
        assert all(each.kind for each in known.values())
        assert ({"lr", "weight_decay", "optimiser", "clip"} <= set(known)) == method.pretrains
