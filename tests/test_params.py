import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from framebudget import params
from framebudget.console import UserError
from tests.conftest import ROOT


def written(tmp_path, change):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(content)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.update(frames=0), "frames.0"),
        (lambda p: p.update(frames="abc"), "frames.0"),
        (lambda p: p.update(frames=[]), "frames"),
        (lambda p: p.update(frames=[8, 8]), "frames"),
        (lambda p: p.update(frames=True), "frames.0"),
        (lambda p: p.update(seeds=[-1]), "seeds.0"),
        (lambda p: p.update(colour="red"), "colour: unknown key"),
        (lambda p: p.pop("clips"), "clips: missing"),
        (lambda p: p.update(models=[]), "models"),
        (lambda p: p.update(models=["x3d_m", "x3d_m"]), "models: a value appears twice"),
        (lambda p: p.update(models=["tiny"]), "models: datasets.motion has no section tiny"),
        (
            lambda p: p.update(protocol="published") or p["datasets"]["motion"]["input"].update(sampling="segments"),
            "datasets.motion: protocol published needs one fold (split.folds, split.official) and dynamic or static",
        ),
        (
            lambda p: p.update(engine="ray") or p["trainer"].update(devices=2),
            "engine: ray gives each training one device",
        ),
        (lambda p: p.update(dataset="kinetics"), "dataset: 'kinetics' is not one of motion, ucf101, folder"),
        (lambda p: p["train"].update(lr=-1), "train.lr"),
        (lambda p: p["train"].update(optimizer=1), "train.optimizer"),
        (lambda p: p["train"].update(label_smoothing=1), "train.label_smoothing"),
        (lambda p: p["trainer"].update(precision="half"), "trainer.precision"),
        (lambda p: p["datasets"]["motion"]["split"].update(test=0.9), "datasets.motion.split"),
        (
            lambda p: p["datasets"]["ucf101"]["split"].update(folds=5),
            "set test, folds (test is then ignored) or official",
        ),
        (lambda p: p["datasets"]["ucf101"]["split"].update(official=True), "datasets.ucf101.split.official"),
        (lambda p: p["datasets"]["motion"]["input"].update(crop=1000), "datasets.motion.input: crop 1000"),
        (lambda p: p["datasets"]["motion"]["input"].update(sampling="random"), "datasets.motion.input.sampling"),
        (lambda p: p["datasets"]["motion"]["input"].update(short="pad"), "datasets.motion.input.short"),
        (lambda p: p["datasets"]["motion"]["evaluate"].update(crops=2), "datasets.motion.evaluate.crops"),
        (lambda p: p["datasets"]["motion"]["fetch"].update(group="("), "datasets.motion.fetch.group"),
        (lambda p: p["datasets"]["folder"]["x3d_m"].update(momentum=1), "datasets.folder.x3d_m.momentum: unknown key"),
        (
            lambda p: p["datasets"]["folder"]["x3d_m"].pop("lr"),
            "datasets.folder.x3d_m.lr: missing; add it, empty for its default",
        ),
        (
            lambda p: p["datasets"]["ucf101"]["train"].pop("lr"),
            "datasets.ucf101.train.lr: missing; add it, empty for its default",
        ),
        (lambda p: p["datasets"]["ucf101"].update(colour={"red": 1}), "datasets.ucf101.colour.red: unknown key"),
        (
            lambda p: p["datasets"]["folder"]["x3d_m"].update(weights=1),
            "datasets.folder.x3d_m.weights: must be a file, a URL",
        ),
        (lambda p: p["datasets"]["folder"]["x3d_m"].update(optimizer_args=1), "datasets.folder.x3d_m.optimizer_args"),
        (lambda p: p["datasets"]["motion"]["x3d_m"].update(crop=64), "datasets.motion.x3d_m: crop 64 is larger than"),
        (lambda p: p["datasets"]["motion"]["train"].update(epochs=0), "datasets.motion.train.epochs"),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_key(tmp_path, change, says):
    with pytest.raises(params.ParamsError) as error:
        params.load(written(tmp_path, change))
    assert says in str(error.value)


@pytest.mark.parametrize("test", [None, 0.9])
def test_with_folds_no_share_is_for_the_test(tmp_path, test):
    path = written(tmp_path, lambda p: p["datasets"]["motion"]["split"].update(folds=5, test=test, validation=0.2))
    assert params.load(path).datasets["motion"].split.folds == 5


def test_budgets_are_in_order(tmp_path):
    assert params.load(written(tmp_path, lambda p: p.update(frames=[16, 1, 4]))).frames == [1, 4, 16]


def test_a_table_and_an_archive_may_have_a_suffix_in_capitals(tmp_path):
    assert params.load(written(tmp_path, lambda p: p.update(dataset="folder", clips="a/CLIPS.CSV"))).table is not None
    assert params.load(written(tmp_path, lambda p: p.update(dataset="ucf101", clips="U.ZIP"))).archive == "U.ZIP"


def test_a_number_stands_for_a_list_of_one(tmp_path):
    assert params.load(written(tmp_path, lambda p: p.update(frames=6))).frames == [6]


def test_a_data_set_overrides_the_recipe_and_a_model_overrides_the_data_set(tmp_path):
    def change(p):
        p["train"].update(lr=0.1, epochs=20)
        p["datasets"]["motion"]["train"].update(lr=0.2, batch_size=4)
        p["datasets"]["motion"]["x3d_m"].update(lr=0.3, epochs=None)
        p["datasets"]["motion"]["slowfast_r50"].update(lr=None)

    p = params.load(written(tmp_path, change))
    assert (p.recipe("x3d_m").lr, p.recipe("x3d_m").batch_size, p.recipe("x3d_m").epochs) == (0.3, 4, 20)
    assert p.recipe("slowfast_r50").lr == 0.2


def test_arguments_are_added_to_those_above_and_start_anew_with_another_optimizer(tmp_path):
    def change(p):
        p["train"].update(
            optimizer="SGD", optimizer_args={"momentum": 0.9}, scheduler_args={"step_size": 3, "gamma": 1}
        )
        motion = p["datasets"]["motion"]
        motion["train"].update(optimizer=None, optimizer_args={"momentum": None, "nesterov": True}, scheduler=None)
        motion["x3d_m"].update(optimizer_args=None, scheduler_args={"gamma": 0.5})
        motion["slowfast_r50"].update(optimizer="Adam", scheduler="CosineAnnealingLR", scheduler_args={"T_max": 4})

    p = params.load(written(tmp_path, change))
    assert p.recipe("x3d_m").optimizer_args == {"momentum": 0.9, "nesterov": True}
    assert p.recipe("x3d_m").scheduler_args == {"step_size": 3, "gamma": 0.5}
    assert p.recipe("slowfast_r50").optimizer_args == {}
    assert p.recipe("slowfast_r50").scheduler_args == {"T_max": 4}


def test_clips_lie_where_the_data_set_says_or_where_the_user_does(tmp_path):
    def where(**changes):
        p = params.load(written(tmp_path, lambda p: p.update(changes)))
        return p.archive, p.folder

    archive = params.load(ROOT / "params.yaml").datasets["ucf101"].fetch.archive
    assert where() == (None, Path("data/motion"))
    assert where(dataset="ucf101") == (archive, Path.cwd() / "data/ucf101")
    assert where(dataset="ucf101", clips="a/UCF101.zip") == ("a/UCF101.zip", Path.cwd() / "data/ucf101")
    assert where(dataset="ucf101", clips="a/UCF-101") == (None, Path("a/UCF-101"))
    assert where(dataset="folder", clips="a") == (None, Path("a"))
    with pytest.raises(params.ParamsError, match="clips: folder needs the folder of your clips"):
        where(dataset="folder")


def test_dvc_changes_the_lines_that_it_is_told_to_and_no_other(tmp_path):
    path = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    before = path.read_text()
    changes = {"frames": "6", "clips": "/a", "datasets.motion.x3d_m.lr": "0.1", "train.optimizer_args.momentum": "0.9"}
    apply_overrides(path, [f"{key}={value}" for key, value in changes.items()])
    after = path.read_text()
    assert len(set(before.splitlines()) ^ set(after.splitlines())) <= 2 * len(changes) + 3  # the budgets were a list
    keys = [f"{section}.{key}" for section, keys in every_section(yaml.safe_load(before)) for key in keys]
    apply_overrides(path, [f"{key}=1" for key in keys])  # raises if one of them is not there


def every_section(p):
    recipe = list(params.Train.model_fields)
    for dataset, data in p["datasets"].items():
        yield f"datasets.{dataset}.train", recipe
        for network in ("x3d_m", "slowfast_r50"):
            yield f"datasets.{dataset}.{network}", ["weights", *params.SIZES, *recipe]
        yield from ((f"datasets.{dataset}.{name}", data[name]) for name in ("fetch", "split", "input", "evaluate"))


def test_a_model_may_have_pictures_of_its_own_size(tmp_path):
    p = params.load(written(tmp_path, lambda p: p["datasets"]["motion"]["x3d_m"].update(short_side=70, crop=64)))
    assert (p.input("x3d_m").short_side, p.input("x3d_m").crop) == (70, 64)
    assert p.input("slowfast_r50").crop == 48


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="missing"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("frames: [6")
    with pytest.raises(UserError, match="not YAML"):
        params.load(tmp_path / "params.yaml")
