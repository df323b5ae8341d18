import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

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


def test_groups_of_near_duplicates_on_both_sides_are_named():
    table = pd.DataFrame({"image_id": list("abc"), "patient": list("pqr"), "split": ["train", "test", "val"]})
    splits.assert_disjoint(table)
    with pytest.raises(ValueError, match=r"Groups of near-duplicates on both sides of a split: g \(train and test\)\."):
        splits.assert_disjoint(table.assign(group=["g", "g", "r"]))
    splits.assert_disjoint(table.assign(group=["g", "g", "r"], split=[splits.LEFT_OUT, "test", "val"]))


def test_near_duplicates_tie_patients_and_patients_tie_near_duplicates():
    patients = np.array(["p", "q", "q", "r", "s", "t"])
    first = np.array([0, 0, 2, 2, 4, 5])  # q's first image looks like p's, q's second like r's
    assert splits.together(patients, first).tolist() == ["p", "p", "p", "p", "s", "t"]
    assert splits.together(patients, np.arange(6)).tolist() == patients.tolist()


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_groups_stay_whole_in_any_number_of_folds(folds):
    table = people(120)
    table["group"] = table["patient"].str.removeprefix("p").astype(int).floordiv(3).astype(str)
    tested = np.zeros(len(table), int)
    for fold in range(folds):
        table["split"] = splits.split(table, fold, folds)
        splits.assert_disjoint(table)
        tested += table["split"] == "test"
    assert (tested == 1).all()


def test_every_part_has_its_share_of_every_label_of_every_source():
    table = people(800).assign(source="small")
    table.loc[table["patient"].str.removeprefix("p").astype(int) >= 200, "source"] = "large"
    counts = pd.crosstab(splits.parts(table), [table["source"], table["label"]])
    assert (counts / counts.sum() - 0.2).abs().to_numpy().max() < 0.06


def test_official_folds_are_the_parts():
    table = people(40)
    table["official_fold"] = (table["patient"].str.removeprefix("p").astype(int) * 7) % 5
    assert (splits.parts(table) == table["official_fold"]).all()
    assert (splits.split(table, 3) == "test").tolist() == (table["official_fold"] == 3).tolist()
    ten = splits.parts(table, folds=10)
    assert set(ten) == set(range(10))  # the authors' five say nothing about ten


def official(values, **more):
    n = len(values)
    table = pd.DataFrame({"image_id": [f"i{i}" for i in range(n)], "patient": [f"p{i}" for i in range(n)]})
    return table.assign(label="a", official=values, **more)


def test_an_official_split_holds_in_every_fold():
    table = official(["train", "val", "test"] * 10)
    for fold in range(5):
        assert (splits.split(table, fold) == table["official"]).all()


def test_val_goes_round_among_the_rest_where_the_authors_fixed_test_only():
    table = official(["train"] * 40 + ["test"] * 10)
    found = np.stack([splits.split(table, fold) for fold in range(5)])
    assert (found[:, 40:] == "test").all()
    assert ((found[:, :40] == "val").sum(0) == 1).all() and not (found[:, :40] == "test").any()


def test_test_goes_round_among_the_rest_where_the_authors_fixed_val_only():
    table = official([""] * 40 + ["val"] * 10)
    found = np.stack([splits.split(table, fold) for fold in range(5)])
    assert (found[:, 40:] == "val").all()
    assert ((found[:, :40] == "test").sum(0) == 1).all() and not (found[:, :40] == "val").any()


def test_what_is_official_training_stays_it_where_the_rest_goes_round():
    table = official(["train"] * 10 + [""] * 40)
    found = np.stack([splits.split(table, fold) for fold in range(5)])
    assert (found[:, :10] == "train").all()
    assert ((found[:, 10:] == "test").sum(0) == 1).all() and ((found[:, 10:] == "val").sum(0) == 1).all()


def test_an_official_split_cannot_tear_a_group_apart():
    table = official(["train", "test", "train", "val", "val", "test", "train"], group=list("aabbccd"))
    table["split"] = splits.split(table)
    assert table["split"].tolist() == ["", "test", "", "val", "", "test", "train"]
    splits.assert_disjoint(table)


def test_official_folds_cannot_tear_a_patient_apart():
    table = official([""] * 5).assign(patient=list("aabcd"), official_fold=range(5))
    assert splits.split(table, 0).tolist() == ["test", "", "train", "train", "train"]
    assert splits.split(table, 1).tolist() == ["", "test", "val", "train", "train"]
    assert splits.split(table, 4).tolist() == ["val", "", "train", "train", "test"]


def test_an_odd_official_split_is_a_sentence():
    with pytest.raises(ValueError, match="official is 'dev' for an image; it is one of train, val, test"):
        splits.parts(official(["train", "dev"]))


def images_of(table, name="some"):
    from mednb.datasets import Images

    none = np.zeros((len(table), 16, 16), np.uint8)
    about = {"card": None, "size": 16, "fingerprint": "f", "split_hash": splits.split_hash(table)}
    return Images(name=name, table=table, stored_pixels=none, stored_masks=None, **about)


@pytest.fixture
def images():
    table = people().assign(fold=2)
    table["split"] = splits.split(table, 2)
    return images_of(table)


def test_images_with_a_leak_cannot_be_made(images):
    shuffled = images.table["split"].sample(frac=1, random_state=0, ignore_index=True)
    with pytest.raises(ValueError, match="Patients on both sides of a split"):
        images_of(images.table.assign(split=shuffled))


def test_images_that_a_group_forbids_are_listed(images):
    table = images.table.copy()
    table.loc[:2, "split"] = splits.LEFT_OUT
    kept = splits.usable(images_of(table))
    assert len(kept) == len(images) - 3 and set(kept.table["split"]) == set(splits.NAMES)
    assert kept.left_out["image_id"].tolist() == table["image_id"][:3].tolist()
    assert splits.usable(kept) is kept


def test_a_split_that_was_written_is_read_back(images, tmp_path):
    splits.write(images, tmp_path / "splits.csv")
    other = images_of(images.table.assign(split=splits.split(images.table, 4), fold=4))
    again = splits.apply(other, tmp_path / "splits.csv")
    assert (again.table["split"] == images.table["split"]).all() and set(again.table["fold"]) == {2}
    assert again.split_hash == images.split_hash != other.split_hash
    foreign = pd.read_csv(tmp_path / "splits.csv")[["split", "image_id"]].sample(frac=1, random_state=0)
    foreign.to_csv(tmp_path / "foreign.csv", index=False)
    assert splits.apply(other, tmp_path / "foreign.csv").split_hash == images.split_hash


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t: t.drop(index=3), "has no row for: p1/"),
        (lambda t: pd.concat([t, t.iloc[[3, 4]]]), "gives twice: p1/"),
        (lambda t: t.assign(image_id=t["image_id"].replace("p0/0", "p0/99")), "does not hold here: p0/99"),
        (lambda t: t.assign(split=t["split"].replace("val", "valid")), "has a split other than train, val, test for: "),
        (lambda t: t.drop(columns="split"), "has no column split; it has image_id, patient, label, fold"),
        (lambda t: t.assign(split=t["split"].to_numpy()[::-1]), "Patients on both sides of a split"),
    ],
)
def test_a_bad_file_of_splits_is_a_sentence_that_names_it(images, tmp_path, spoil, sentence):
    splits.write(images, tmp_path / "splits.csv")
    spoil(pd.read_csv(tmp_path / "splits.csv")).to_csv(tmp_path / "splits.csv", index=False)
    with pytest.raises(ValueError, match=sentence) as error:
        splits.apply(images, tmp_path / "splits.csv")
    assert str(error.value).startswith(str(tmp_path / "splits.csv"))


def test_a_file_of_splits_that_is_no_table_is_a_sentence(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of splits"):
        splits.apply(images, tmp_path / "splits.csv")
    for content in (b"", b"\xff\xfe\x00image_id"):
        (tmp_path / "splits.csv").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a table"):
            splits.apply(images, tmp_path / "splits.csv")


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


def test_draws_of_one_seed_differ_and_the_first_one_is_the_seeds_own():
    table = people()
    first, second, third = (set(splits.few(table, 0.1, 0, draw)) for draw in (0, 1, 2))
    assert first == set(splits.few(table, 0.1, 0))
    assert len({frozenset(each) for each in (first, second, third)}) == 3
    assert second <= set(splits.few(table, 0.5, 0, 1))


def test_a_model_may_learn_from_train_and_be_chosen_on_val_only():
    table = people()
    table = table.assign(split=splits.split(table), image_id=[f"image-{i}" for i in range(len(table))])
    train, val, test = (table[table["split"] == split] for split in splits.NAMES)
    splits.assert_apart(train, val)
    with pytest.raises(ValueError, match=f"chosen on val, but {len(test)} of the {len(test)} .* is of test"):
        splits.assert_apart(train, test)
    with pytest.raises(ValueError, match=f"learn from train, but {len(val)} of the {len(val)} .* is of val"):
        splits.assert_apart(val, val)
    both = val.assign(patient=train["patient"].iloc[0])
    with pytest.raises(ValueError, match=r"Patients on both sides of a split: .* \(train and val\)"):
        splits.assert_apart(train, both)


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


def test_a_limit_below_one_patient_is_a_sentence_with_the_smallest_one():
    table = pd.DataFrame({"patient": ["p"] * 7 + ["q"] * 7, "label": "a", "split": "train"})
    with pytest.raises(ValueError, match=r"limit is 3, but .* has 7 images; the smallest limit that would do is 7"):
        splits.at_most(table, 3)
    assert len(splits.at_most(table, 7)) == 7


def test_what_a_split_gives_away_is_the_share_of_test_images_with_a_twin_in_train():
    table = pd.DataFrame({"patient": list("aabbcd"), "group": list("aabbcc")})
    names = np.array(["train", "test", "test", "test", "train", "test"])
    assert splits.given_away(table, names) == 2 / 4
    assert splits.given_away(table, names, "patient") == 1 / 4
    assert splits.given_away(table, np.array(["train"] * 6)) == 0


def test_a_shuffled_split_leaks_and_ours_does_not(images):
    shares = splits.leaks(images.table).pivot_table("share", "split", "reason", sort=False)
    assert (shares.loc["this split"] == 0).all() and (shares.loc["shuffled"] > 0.3).all()


def test_a_handful_of_images_of_many_classes_is_cut_without_regard_to_class():
    table = pd.DataFrame({"patient": list("abcdefgh"), "label": list("xyxyzzuv")})
    assert set(splits.parts(table)) == {0, 1, 2, 3, 4}


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("seed", range(8))
def test_the_parts_are_those_of_sklearn(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    n, folds = int(rng.integers(60, 400)), int(rng.integers(2, 8))
    groups = rng.integers(0, rng.integers(3 * folds, n), n)
    strata = rng.choice(classes := int(rng.integers(1, 30)), n, p=rng.dirichlet(np.ones(classes)))
    cutter, asked = splits.stratified(folds, seed), []
    own = cutter._find_best_fold
    monkeypatch.setattr(cutter, "_find_best_fold", lambda **given: asked.append(1) or own(**given))
    found = [part.tolist() for _, part in cutter.split(groups, strata, groups)]
    theirs = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    assert found == [part.tolist() for _, part in theirs.split(groups, strata, groups)]
    assert len(asked) == len(set(groups))  # sklearn still calls what is faster
