import pytest
import yaml

from framebudget import params
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
        (lambda p: p.update(dataset="kinetics"), "dataset: 'kinetics' is not one of motion, ucf101, folder"),
        (lambda p: p["train"].update(lr=-1), "train.lr"),
        (lambda p: p["train"].update(optimizer=1), "train.optimizer"),
        (lambda p: p["train"].update(label_smoothing=1), "train.label_smoothing"),
        (lambda p: p["trainer"].update(precision="half"), "trainer.precision"),
        (lambda p: p["datasets"]["motion"]["split"].update(test=0.9), "datasets.motion.split"),
        (lambda p: p["datasets"]["motion"]["input"].update(crop=1000), "datasets.motion.input: crop 1000"),
        (lambda p: p["datasets"]["motion"]["input"].update(sampling="random"), "datasets.motion.input.sampling"),
        (lambda p: p["datasets"]["motion"]["input"].update(short="pad"), "datasets.motion.input.short"),
        (lambda p: p["datasets"]["motion"]["evaluate"].update(crops=2), "datasets.motion.evaluate.crops"),
        (lambda p: p["datasets"]["motion"]["fetch"].update(group="("), "datasets.motion.fetch.group"),
        (lambda p: p["datasets"]["folder"]["x3d_m"].update(momentum=1), "datasets.folder.x3d_m.momentum: unknown key"),
        (lambda p: p["datasets"]["motion"]["x3d_m"].update(crop=64), "datasets.motion.x3d_m: crop 64 is larger than"),
        (lambda p: p["datasets"]["motion"]["train"].update(epochs=0), "datasets.motion.train.epochs"),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_key(tmp_path, change, says):
    with pytest.raises(params.ParamsError) as error:
        params.load(written(tmp_path, change))
    assert says in str(error.value)


def test_a_number_stands_for_a_list_of_one(tmp_path):
    assert params.load(written(tmp_path, lambda p: p.update(frames=6))).frames == [6]


def test_a_data_set_overrides_the_recipe_and_a_model_overrides_the_data_set(tmp_path):
    def change(p):
        p["train"].update(lr=0.1, epochs=20)
        p["datasets"]["motion"]["train"] = {"lr": 0.2, "batch_size": 4}
        p["datasets"]["motion"]["x3d_m"] = {"lr": "3e-1"}
        p["datasets"]["motion"]["slowfast_r50"] = {}

    p = params.load(written(tmp_path, change))
    assert (p.recipe("x3d_m").lr, p.recipe("x3d_m").batch_size, p.recipe("x3d_m").epochs) == (0.3, 4, 20)
    assert p.recipe("slowfast_r50").lr == 0.2


def test_a_model_may_have_pictures_of_its_own_size(tmp_path):
    p = params.load(written(tmp_path, lambda p: p["datasets"]["motion"]["x3d_m"].update(short_side=70, crop=64)))
    assert (p.input("x3d_m").short_side, p.input("x3d_m").crop) == (70, 64)
    assert p.input("slowfast_r50").crop == 48


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(params.ParamsError, match="missing"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("frames: [6")
    with pytest.raises(params.ParamsError, match="not YAML"):
        params.load(tmp_path / "params.yaml")
