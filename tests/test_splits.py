import numpy as np
import pandas as pd
import pytest

from mednb.datasets import splits


def people(patients=60, seed=0, labels=("a", "b", "c"), odds=(0.2, 0.5, 0.3)):
    """A table of patients with one to five images each; every fifth patient has images of two labels."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        label = rng.choice(labels, p=odds)
        for image in range(rng.integers(1, 6)):
            other = patient % 5 == 0 and image == 4
            rows.append((f"p{patient}/{image}", f"p{patient}", labels[0] if other else label))
    return pd.DataFrame(rows, columns=["image_id", "patient", "label"])


@pytest.mark.parametrize("seed", range(3))
def test_patients_stay_in_one_split(seed):
    table = people(seed=seed)
    for fold in range(5):
        table["split"] = splits.split(table, fold)
        assert len(table[["patient", "split"]].drop_duplicates()) == 60
        splits.assert_disjoint(table)


def test_the_test_splits_of_all_folds_are_disjoint_and_cover_every_image():
    table = people()
    tested = np.stack([splits.split(table, fold) == "test" for fold in range(5)])
    assert (tested.sum(0) == 1).all()


def test_val_of_a_fold_is_test_of_the_next_one():
    table = people()
    for fold in range(5):
        assert ((splits.split(table, fold) == "val") == (splits.split(table, (fold + 1) % 5) == "test")).all()


def test_splits_have_the_proportions_of_labels():
    table = people(patients=400)
    table["split"] = splits.split(table)
    share = pd.crosstab(table["split"], table["label"], normalize="index")
    overall = table["label"].value_counts(normalize=True)
    assert (share - overall).abs().to_numpy().max() < 0.04
    assert table["split"].value_counts(normalize=True)["train"] == pytest.approx(0.6, abs=0.03)


def test_the_split_is_fixed_by_its_seed():
    table = people()
    assert (splits.split(table, seed=1) == splits.split(table, seed=1)).all()
    assert (splits.split(table, seed=1) != splits.split(table, seed=2)).any()


def test_a_fold_that_is_not_there_and_too_few_patients_are_sentences():
    with pytest.raises(ValueError, match="fold is 5; with 5 folds it is one of 0 to 4"):
        splits.split(people(), fold=5)
    with pytest.raises(ValueError, match="of 4 patients cannot be split into 5 folds"):
        splits.split(people(patients=4))


def test_a_rare_label_gives_no_warning():
    table = people()
    table.loc[0, "label"] = "rare"
    splits.split(table)


def test_patients_on_both_sides_are_named():
    table = people()
    table["split"] = splits.split(table)
    row = table.index[(table["split"] == "train") & (table["patient"].duplicated())][0]
    table.loc[row, "split"] = "test"
    with pytest.raises(
        ValueError,
        match=rf"Patients on both sides of a split: {table['patient'][row]} \((train and test|test and train)\)",
    ):
        splits.assert_disjoint(table)


def test_the_hash_knows_the_splits_and_not_the_order():
    table = people()
    table["split"] = splits.split(table)
    before = splits.split_hash(table)
    assert splits.split_hash(table.sample(frac=1, random_state=0)) == before
    table.loc[0, "split"] = "val" if table["split"][0] != "val" else "train"
    assert splits.split_hash(table) != before


@pytest.mark.parametrize("seed", range(3))
def test_label_fractions_are_nested_and_whole(seed):
    table = people()
    before = set()
    for fraction in (0.05, 0.1, 0.25, 0.5, 1.0):
        rows = splits.few(table, fraction, seed)
        kept = set(table["patient"][rows])
        assert before <= kept
        assert len(rows) == table["patient"].isin(kept).sum()
        before = kept
    assert len(rows) == len(table)


def test_a_fraction_is_taken_of_every_label():
    table = pd.DataFrame({"patient": [f"p{i}" for i in range(100)], "label": ["a"] * 70 + ["b"] * 29 + ["c"]})
    table["image_id"] = table["patient"]
    counts = table["label"][splits.few(table, 0.1, seed=0)].value_counts()
    assert counts.to_dict() == {"a": 7, "b": 3, "c": 1}  # 0.1 * 70 is 7, though in binary it is a little more


def test_other_seeds_take_other_patients():
    table = people(200)
    assert set(splits.few(table, 0.1, 0)) != set(splits.few(table, 0.1, 1))


def test_a_patient_of_two_labels_counts_as_the_more_frequent_one():
    table = pd.DataFrame({"patient": ["p"] * 3 + ["q", "r"], "label": ["b", "a", "a", "b", "a"]})
    order = splits.shares(table, 0, ["label"]).set_index("patient")
    assert order["label"].to_dict() == {"p": "a", "q": "b", "r": "a"}


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_fraction_outside_0_and_1_is_a_sentence(fraction):
    with pytest.raises(ValueError, match="share of the patients"):
        splits.few(people(), fraction, 0)


def test_a_limit_is_kept_by_whole_patients_of_every_label_and_split():
    table = people(300)
    table["split"] = splits.split(table)
    rows = splits.at_most(table, 100)
    kept = table.iloc[rows]
    assert 90 <= len(rows) <= 100
    assert table["patient"].isin(kept["patient"]).sum() == len(rows)
    assert len(kept.groupby(["label", "split"])) == 9
