import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

from detection.backbones import FPN, ResNet, Tiny
from detection.config import (
    Config,
    ScenesConfig,
    base_config,
    config_hash,
    from_plain,
    load_config,
    override,
    to_plain,
)
from detection.errors import UserError
from detection.pooling import SkipPool, Source
from tests.tiny_runs import DETECTOR, tiny_config

ROOT = Path(__file__).parents[2]
CONFIG = tiny_config(Path("data"))


@pytest.mark.parametrize(
    ("item", "read"),
    [
        ("schedule.epochs=5", lambda c: c.schedule.epochs == 5),
        ("optimizer.lr=1", lambda c: c.optimizer.lr == 1.0 and isinstance(c.optimizer.lr, float)),
        ("schedule.milestones=(0.5,0.9)", lambda c: c.schedule.milestones == (0.5, 0.9)),
        ("schedule.milestones=0.5", lambda c: c.schedule.milestones == (0.5,)),
        ("data.train.annotations=a=b.json", lambda c: c.data.train.annotations == "a=b.json"),
        ("data.train.images=2007", lambda c: c.data.train.images == "2007"),
        ("data.augmentation=none", lambda c: c.data.augmentation is None),
        ("ema=0.99", lambda c: c.ema == 0.99),
        ("validation_loss=True", lambda c: c.validation_loss is True),
        ("freeze.stem=none", lambda c: c.freeze == {"stem": None}),
        ("freeze.backbone.fpn=3", lambda c: c.freeze == {"backbone.fpn": 3}),
        ("optimizer.lr_multipliers.backbone.fpn=.5", lambda c: c.optimizer.lr_multipliers == {"backbone.fpn": 0.5}),
        ("optimizer.lr_multipliers.backbone=4", lambda c: type(c.optimizer.lr_multipliers["backbone"]) is float),
        ("detector.head.hidden_channels=7", lambda c: c.detector.head.keywords["hidden_channels"] == 7),
        ("detector.head.nms_threshold=0.4", lambda c: c.detector.head.keywords["nms_threshold"] == 0.4),
        ("detector.backbone=detection.backbones.ResNet", lambda c: c.detector.backbone.func is ResNet),
    ],
)
def test_overrides_are_typed(item, read):
    assert read(override(CONFIG, [item]))


def test_a_setting_of_a_part_that_has_none_is_refused():
    with pytest.raises(UserError, match="detector.context.width: unknown config key; what it names has no settings."):
        override(CONFIG, ["detector.context=detection.context.NoContext", "detector.context.width=7"])


def test_an_override_leaves_the_rest_alone():
    changed = override(CONFIG, ["detector.head.hidden_channels=7"])
    assert changed.detector.head.keywords["batch_size_per_image"] == 16
    assert changed.detector.backbone is CONFIG.detector.backbone
    assert CONFIG.detector.head.keywords["hidden_channels"] == 16


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("schedule.epoch=2", "schedule.epoch: unknown config key; did you mean schedule.epochs?"),
        ("shedule.epochs=2", "shedule.epochs: unknown config key; did you mean schedule.epochs?"),
        ("detector.head.hidden=2", "did you mean detector.head.hidden_channels?"),
        ("detector.head.in_channels=2", "unknown config key"),
        ("schedule.epochs=two", "schedule.epochs='two': must be of type int, not str."),
        ("schedule.epochs=2.5", "must be of type int, not float"),
        ("schedule.epochs=true", "must be of type int, not bool"),
        ("schedule.epochs", "write it as key=value"),
        ("schedule.epochs=0", "schedule.epochs=0: must be at least 1 and at most 1000000."),
        ("optimizer.kind=adam", "must be one of sgd, adamw (did you mean adamw?)"),
        ("optimizer=adamw", "has settings below it; set them one by one as optimizer.kind=adamw."),
        ("seed.x=1", "seed is 0 and has no settings of its own"),
        ("data.scenes.tasks=row", "data.scenes.tasks: unknown config key; did you mean data.scenes.task?"),
        ("detector.backbone=os.system", "is not a class of the package"),
        ("detector.backbone=detection.config.files.runpy", "is not a class of the package"),
        ("detector.backbone=detection.backbones.Nothing", "there is no class"),
        ("ema=2", "ema=2: must be above 0 and below 1, or none."),
        ("best_metric=mAP", "best_metric=mAP: must be one of AP, AP50"),
        ("schedule.milestones=(3,)", "schedule.milestones[0]=3.0: must be above 0 and at most 1."),
        ("detector.max_size=10", "must be at least min_size"),
        ("data.augmentation.horizontal_flip=7", "must be at least 0 and at most 1"),
        ("data.workers=many", "data.workers=many: must be of type int, at least 0 and at most 64, or auto."),
        ("data.workers=65", "data.workers=65: must be at least 0 and at most 64, or auto."),
        ("data.workers=autos", "at most 64, or auto (did you mean auto?)."),
        ("freeze.stem=soon", "freeze.stem='soon': must be of type int, at least 0, or none."),
        ("freeze={3: 1}", "freeze: has the key 3; keys must be texts."),
        ("optimizer.lr_multipliers.head=0", "optimizer.lr_multipliers.head=0.0: must be above 0."),
        ("optimizer.lr_multipliers.head=x", "optimizer.lr_multipliers.head='x': must be of type float, not str."),
    ],
)
def test_a_wrong_override_gets_one_sentence(item, sentence):
    with pytest.raises(UserError, match=".") as error:
        override(CONFIG, [item])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_data_survives_json_and_writes_defaults_out():
    config = override(CONFIG, ["freeze.stem=2", "detector.backbone=detection.backbones.ResNet"])
    plain = json.loads(json.dumps(to_plain(config)))
    assert plain["detector"]["backbone"] == {
        "class": "detection.backbones.ResNet",
        "depth": 50,
        "weights": "IMAGENET1K_V1",
        "norm": "auto",
        "norm_eps": 1e-5,
    }
    again = from_plain(plain, Config)
    assert to_plain(again) == to_plain(config)
    assert config_hash(again) == config_hash(config)
    assert isinstance(again.schedule.milestones, tuple)


def test_nested_parts_survive():
    detector = dataclasses.replace(DETECTOR, backbone=partial(FPN, body=partial(Tiny), stages=("c2", "c3")))
    again = from_plain(json.loads(json.dumps(to_plain(Config(detector=detector)))), Config)
    assert again.detector.backbone.keywords["body"].func is Tiny
    assert again.detector.backbone.keywords["stages"] == ("c2", "c3")


SKIP_POOL = partial(SkipPool, sources=(Source(("c2",)), Source(("c3",), 1.5, "channels")), amplitude=(2.0,))
WITH_SKIP_POOL = dataclasses.replace(CONFIG, detector=dataclasses.replace(DETECTOR, pool=SKIP_POOL))


def test_dataclasses_in_a_tuple_of_a_part_survive():
    plain = json.loads(json.dumps(to_plain(WITH_SKIP_POOL)))
    assert plain["detector"]["pool"]["sources"][1] == {"feature_maps": ["c3"], "box_scale": 1.5, "norm": "channels"}
    again = from_plain(plain, Config)
    assert {k: again.detector.pool.keywords[k] for k in SKIP_POOL.keywords} == SKIP_POOL.keywords
    assert to_plain(again) == to_plain(WITH_SKIP_POOL)


def test_dataclasses_in_a_tuple_of_a_part_are_typed_on_the_command_line():
    changed = override(
        WITH_SKIP_POOL, ["detector.pool.sources=[{'feature_maps': 'c3'}, {'feature_maps': ['c2'], 'norm': 'region'}]"]
    )
    assert changed.detector.pool.keywords["sources"] == (Source(("c3",)), Source(("c2",), norm="region"))
    changed = override(WITH_SKIP_POOL, ["detector.pool.reference=c3", "detector.pool.amplitude=3"])
    assert changed.detector.pool.keywords["reference"] == ("c3",)
    assert changed.detector.pool.keywords["amplitude"] == 3.0


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("x", "pool.amplitude='x': must be of type float, above 0, or a list of values of type float, above 0."),
        ("(1, 'x')", "pool.amplitude[1]='x': must be of type float, not str."),
    ],
)
def test_a_value_that_fits_no_form_of_a_setting_gets_them_all(value, sentence):
    with pytest.raises(UserError) as error:
        override(WITH_SKIP_POOL, [f"detector.pool.amplitude={value}"])
    assert str(error.value) == f"detector.{sentence}"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (Source(("c3",), norm="chanels"), "pool.sources[1].norm=chanels: must be one of channels, region"),
        (Source(("c3",), box_scale="2"), "pool.sources[1].box_scale='2': must be of type float, not str."),
        (Source((3,)), "pool.sources[1].feature_maps[0]=3: must be of type str, not int."),
        (Source((b"c3",)), "pool.sources[1].feature_maps[0]=b'c3': must be of type str, not bytes."),
        (partial(Tiny), "has settings below it"),
        (("c3",), "pool.sources[1]=('c3',): has settings below it"),
    ],
)
def test_what_is_wrong_in_a_tuple_is_named_by_its_place(source, sentence):
    pool = partial(SkipPool, sources=(Source(("c2",)), source))
    with pytest.raises(UserError) as error:
        override(dataclasses.replace(CONFIG, detector=dataclasses.replace(DETECTOR, pool=pool)), [])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_different_settings_have_different_hashes():
    assert config_hash(CONFIG) != config_hash(override(CONFIG, ["seed=1"]))


def test_a_class_from_elsewhere_is_neither_written_nor_opened():
    detector = dataclasses.replace(DETECTOR, head=partial(dict))
    with pytest.raises(UserError, match="detector.head=builtins.dict: must be a Head"):
        override(Config(detector=detector), [])
    plain = to_plain(CONFIG)
    plain["detector"]["head"] = {"class": "subprocess.Popen", "args": "true"}
    with pytest.raises(UserError, match="not a class of the package"):
        from_plain(plain, Config)


def test_a_module_from_elsewhere_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not a class of the package"):
        override(CONFIG, ["detector.backbone=stranger.Backbone"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p.pop("detector"), "the key 'detector' is missing"),
        (lambda p: p.update(extra=1), "unknown config key 'extra'"),
        (lambda p: p["detector"]["head"].update(extra=1), "no such setting"),
        (lambda p: p.update(seed="x"), "must be of type int"),
    ],
)
def test_a_damaged_config_json_gets_one_sentence(change, sentence):
    plain = to_plain(CONFIG)
    change(plain)
    with pytest.raises(UserError, match=sentence):
        from_plain(plain, Config)


def test_a_shipped_config_is_loaded_by_its_name():
    named, base = load_config("finetune", ["epochs=2"]), override(base_config("finetune"), ["epochs=2"])
    assert to_plain(named) == to_plain(base)


def test_a_text_alone_is_one_override():
    assert load_config("finetune", "epochs=2").schedule.epochs == 2


def test_config_files_are_named_when_missing_or_wrong(tmp_path):
    (tmp_path / "good.py").write_text("x = 1")
    with pytest.raises(UserError, match=r"gud.py: no such file, and no shipped .*; did you mean .*good.py\?"):
        load_config(tmp_path / "gud.py")
    with pytest.raises(UserError, match="must end in `config = Config"):
        load_config(tmp_path / "good.py")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("from detection.config import Config\nconfig = Config(bach_size=2)", "line 2: TypeError: .*bach_size"),
        ("config = Config()", "line 1: NameError"),
        ("config = (", "line 1: SyntaxError"),
        ("import nothing_here", "line 1: ModuleNotFoundError"),
        ("x = 1\ny = {}['a']", "line 2: KeyError"),
        ("from detection.errors import UserError\nraise UserError('so it is.')", "so it is."),
    ],
)
def test_a_config_file_with_an_error_gets_its_line(tmp_path, text, sentence):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=f"c.py: {sentence}"):
        load_config(tmp_path / "c.py")


def test_settings_written_in_python_are_checked_too():
    head = partial(DETECTOR.head.func, hidden_chanels=3)
    with pytest.raises(UserError, match=r"head.hidden_chanels: .* no such setting; did you mean hidden_channels\?"):
        override(Config(detector=dataclasses.replace(DETECTOR, head=head)), [])
    with pytest.raises(UserError, match="batch_size='2': must be of type int"):
        override(Config(detector=DETECTOR, batch_size="2"), [])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.name)
def test_every_config_of_the_package_loads_and_is_written_and_opened_again(path):
    config = load_config(path)
    assert to_plain(from_plain(json.loads(json.dumps(to_plain(config))), Config)) == to_plain(config)


def test_a_note_is_about_the_config_as_it_stands():
    noted = override(load_config(ROOT / "configs" / "quickstart.py"), ["note=AP 0.4 without context"])
    assert override(noted, []).note == override(noted, ["seed=0"]).note == noted.note
    for change in ("seed=1", "schedule.epochs=1", "detector.context=detection.context.NoContext", "samples=0"):
        assert override(noted, [change]).note == ""
        assert override(noted, [change, "note=mine"]).note == "mine"


def test_a_setting_turns_a_group_on_that_is_off_by_default_and_none_that_was_turned_off():
    config = override(base_config("finetune"), ["data.scenes.size=64"])
    assert base_config("finetune").data.scenes is None and config.data.scenes == ScenesConfig(size=64)
    with pytest.raises(UserError, match="data.augmentation is None and has no settings of its own"):
        override(config, ["data.augmentation=none", "data.augmentation.horizontal_flip=0"])
