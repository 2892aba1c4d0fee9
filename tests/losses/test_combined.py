"""``--kd NAME:WEIGHT``: how terms are named, read their layers, join a method, own parameters and are resumed."""

import copy

import pytest
import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps, with_maps
from distilplace.losses import create_distiller, distiller_settings, list_distillers
from distilplace.losses.combined import Combined, with_terms
from distilplace.losses.distiller import Distiller
from distilplace.losses.terms import TERMS, TermSpec, parse_term, term_settings

LEVELS = ("layer1", "layer2", "layer3")
PLACES = 12


def network(seed: int, width: int = 8, channels: int = 3, size: int = 4) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    levels = {name: draw(size, channels * (n + 1), 8 >> n, 8 >> n) for n, name in enumerate(LEVELS)}
    maps = {**levels, "map": draw(size, 2, 3, 3), "vlad": draw(size, 5, 4)}
    return {"embedding": draw(size, width), **with_maps(maps)}


def only(output: dict, names: tuple[str, ...]) -> dict:
    return {"embedding": output["embedding"], **with_maps({name: output[f"maps.{name}"] for name in names})}


def prepared(specs: list[str], student: dict, teachers: list[dict], base: Distiller | None = None, **options: object):
    method = with_terms(base, specs, **options)
    for output, asked in [(student, method.student_maps), *((teacher, method.teacher_maps) for teacher in teachers)]:
        assert set(asked(LEVELS)) <= set(layer_maps(output))
    method.prepare(student, teachers, PLACES)
    return method


@pytest.mark.parametrize(
    ("text", "wanted", "label"),
    [
        ("pkt:30000", TermSpec("pkt", weight=30000), "pkt"),
        ("csd", TermSpec("csd"), "csd"),
        (" kd:.9 ", TermSpec("kd", weight=0.9), "kd"),
        ("hint@layer3:100", TermSpec("hint", ("layer3",), ("layer3",), 100), "hint_layer3"),
        ("sp@layer3/map:3000", TermSpec("sp", ("layer3",), ("map",), 3000), "sp_layer3_to_map"),
        ("at@layer1,layer2", TermSpec("at", LEVELS[:2], LEVELS[:2]), "at_layer1_layer2"),
        ("nst@a,b/c,d:2", TermSpec("nst", ("a", "b"), ("c", "d"), 2), "nst_a_b_to_c_d"),
        ("sp@embedding/map", TermSpec("sp", ("embedding",), ("map",)), "sp_embedding_to_map"),
    ],
)
def test_how_a_term_is_written(text, wanted, label):
    assert parse_term(text) == wanted
    assert parse_term(text).label == label


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ptk:1", "did you mean 'pkt'"),
        ("", "unknown term of --kd ''"),
        ("pkt:", "finite number"),
        ("pkt:many", "finite number"),
        ("pkt:-1", "negative"),
        ("pkt:nan", "finite number"),
        ("pkt@layer1:2", "reads the embedding"),
        ("ail@layer1", "reads the pose"),
        ("at@layer1,layer2/layer1", "as many maps"),
        ("at@", "as many maps"),
        ("at@layer1,:3", "as many maps"),
        ("hint@layer1/", "as many maps"),
        ("hint@embedding", "not the embedding"),
    ],
)
def test_mistakes_in_a_term_are_answered_in_one_line(text, words):
    with pytest.raises(UserError, match=words) as caught:
        with_terms(None, [text])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("specs", "options", "words"),
    [
        (["kd"], {"kd_temprature": 2}, "did you mean 'kd_temperature'"),
        (["kd"], {"kd_temperature": 0}, "kd_temperature is 0: give a number above 0"),
        (["darkrank"], {"darkrank_length": 1.5}, "whole number of at least 1"),
        (["cc"], {"cc_dim": -1}, "negative"),
        (["crd"], {"crd_momentum": 1.5}, "from 0 to 1"),
        (["mse"], {"mse_norm": "l3"}, "did you mean 'l2'"),
        (["afd"], {"afd_legacy": "maybe"}, "True or False"),
        (["kd"], {"auto_scale": "maybe"}, "auto_scale"),
        (["pkt:1", "pkt:2"], {}, "names the term pkt twice"),
    ],
)
def test_wrong_settings_are_refused_when_the_method_is_built(specs, options, words):
    with pytest.raises(UserError, match=words):
        with_terms(None, specs, **options)


def test_every_term_is_a_method_with_its_settings():
    assert set(TERMS) <= set(list_distillers())
    assert distiller_settings("darkrank") == (
        "darkrank_alpha",
        "darkrank_beta",
        "darkrank_length",
        "auto_scale",
        "seed",
    )
    assert {name for term in TERMS for name in distiller_settings(term) if term not in ("rkd", "rkdg")} <= {
        *term_settings(),
        "auto_scale",
        "seed",
    }
    student, teacher = network(1), network(2)
    method = create_distiller("mse", mse_norm="none")
    assert float(method(student, [teacher], {})["mse"]) == pytest.approx(
        float((student["embedding"] - teacher["embedding"]).square().mean())
    )
    with pytest.raises(UserError, match="did you mean 'mse_norm'"):
        create_distiller("mse", mse_nrm="none")
    with pytest.raises(UserError, match="unknown setting of distillation method csd 'kd_temperature'"):
        create_distiller("csd", kd_temperature=2)
    assert set(create_distiller("rkd", rkdloss_weight=2)(student, [teacher], {})) == {"rkd_distance", "rkd_angle"}


def test_terms_join_a_methods_own_under_names_of_their_own():
    student, teacher = network(1), network(2)
    base = create_distiller("ours_rkdg", rkdgloss_weight=10, crosslogitsimloss_weight_st2ss="0.1")
    specs = ["pkt:30000", "rkdg:2", "sp@layer3:3", "sp@layer2:4", "sp:5", "sp@layer2/map"]
    method = prepared(specs, student, [teacher], base)
    alone = base(student, [teacher], {})
    raw = dict(base.unweighted)
    terms = method(student, [teacher], {})
    added = ["pkt", "kd_rkdg", "sp_layer3", "sp_layer2", "sp", "sp_layer2_to_map"]
    assert list(terms) == [*alone, *added]
    assert all(torch.equal(terms[name], value) for name, value in alone.items())
    assert set(method.unweighted) == {*raw, *added}
    assert float(terms["kd_rkdg"]) == pytest.approx(2 * float(raw["rkdg"]), rel=1e-6)
    weights = dict(zip(added, (30000, 2, 3, 4, 5, 1), strict=True))
    assert {name: float(terms[name]) for name in added} == pytest.approx(
        {name: weight * float(method.unweighted[name]) for name, weight in weights.items()}, rel=1e-6
    )
    assert len({float(method.unweighted[name]) for name in added}) == len(added)
    assert "diagonal_share_crosslogitsim_st2ss" in method.statistics
    assert method.teacher_count == 1
    with pytest.raises(UserError, match="takes 1 teacher"):
        method(student, [teacher, teacher], {})


def test_without_terms_the_method_is_the_method():
    base = create_distiller("rkd")
    assert with_terms(base, []) is base


def test_terms_beside_no_distillation_need_a_teacher():
    method = with_terms(create_distiller("nokd"), ["csd:1"])
    student, teacher = network(1), network(2)
    assert list(method(student, [teacher, teacher], {})) == ["csd"]
    with pytest.raises(UserError, match="give --model"):
        method(student, [], {})


class Tapped(Distiller):
    """A method that reads a map, owns a parameter and counts its calls."""

    def student_maps(self, levels):
        return ("map",)

    def teacher_maps(self, levels):
        return ("vlad",)

    def prepare(self, student, teachers, places):
        self.scale = nn.Parameter(torch.ones(places))

    def terms(self, student, teachers, batch):
        self.unweighted["tapped"] = (student["maps.map"].mean() * self.scale.sum()).square()
        self.statistics["tapped_size"] = float(teachers[0]["maps.vlad"].numel())
        return {"tapped": 3 * self.unweighted["tapped"]}


def test_everything_a_method_asks_for_is_forwarded():
    method = with_terms(Tapped(), ["hint@layer2/layer3", "at", "csd"])
    assert method.student_maps(LEVELS) == ("map", "layer2", "layer1", "layer3")
    assert method.teacher_maps(("layer1", "layer2")) == ("vlad", "layer3", "layer1", "layer2")
    student = only(network(1), ("map", *LEVELS))
    teacher = only(network(2), ("vlad", *LEVELS))
    method.prepare(student, [teacher], PLACES)
    terms = method(student, [teacher], {})
    assert list(terms) == ["tapped", "hint_layer2_to_layer3", "at", "csd"]
    assert method.statistics == {"tapped_size": 80.0}
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"method", "parts"}
    assert with_terms(None, ["sp", "pkt"]).student_maps(LEVELS) == ()


def test_default_layers_are_the_level_maps_of_each_network():
    student, teacher = network(1), network(2)
    deep = {**layer_maps(teacher), "layer4": torch.randn(4, 12, 1, 1)}
    teacher = {**teacher, **with_maps(deep)}
    method = with_terms(None, ["at", "hint", "at@layer1,layer2,layer3/layer2,layer3,layer4"])
    assert method.student_maps(LEVELS) == ("layer1", "layer2", "layer3")
    assert method.teacher_maps((*LEVELS, "layer4")) == (*LEVELS, "layer4")
    method.prepare(student, [teacher], PLACES)
    terms = method(student, [teacher], {})
    assert torch.equal(terms["at"], terms["at_layer1_layer2_layer3_to_layer2_layer3_layer4"])
    single = prepared(["hint@layer2"], student, [teacher])
    assert float(terms["hint"]) == pytest.approx(float(single(student, [teacher], {})["hint_layer2"]))


@pytest.mark.parametrize(
    ("spec", "names", "words"),
    [
        ("sp@layer9", LEVELS, "the student gives no feature map 'layer9'; it gives layer1, layer2, layer3"),
        ("at@layer1/lay", LEVELS, "the teacher gives no feature map 'lay'"),
        ("hint@vlad", ("vlad",), r"'vlad' has shape \(4, 5, 4\)"),
        ("at", (), "feature maps, which the student does not give"),
        ("aht", LEVELS, "needs pose"),
    ],
)
def test_maps_that_a_network_lacks_are_named_before_training(spec, names, words):
    method = with_terms(None, [spec])
    with pytest.raises(UserError, match=words):
        method.prepare(only(network(1), names), [only(network(2), names)], PLACES)


def test_a_batch_without_what_a_term_reads_is_refused():
    method = prepared(["lsdnet"], network(1), [network(2)])
    with pytest.raises(UserError, match="needs positives_mask of the batch"):
        method(network(1), [network(2)], {})


def test_several_teachers_are_averaged_each_with_its_own_adaptor():
    student, teachers = network(1), [network(2), network(3, width=5, channels=2)]
    specs = ["cc:2", "hint:3", "vid@layer1", "pkt", "sp@layer3"]
    method = prepared(specs, student, teachers)
    together = method(student, teachers, {})
    for k, teacher in enumerate(teachers):
        alone = prepared(specs, student, [teacher])
        for part, own in zip(method.parts, alone.parts, strict=True):
            if own.adaptors:
                own.adaptors[0].load_state_dict(part.adaptors[k].state_dict())
        together = {
            name: value - share / 2
            for (name, value), share in zip(together.items(), alone(student, [teacher], {}).values(), strict=True)
        }
    assert all(abs(float(value.detach())) < 1e-5 for value in together.values())
    same = prepared(["pkt", "sp"], student, [teachers[0]] * 3)(student, [teachers[0]] * 3, {})
    one = prepared(["pkt", "sp"], student, teachers[:1])(student, teachers[:1], {})
    assert {name: float(value) for name, value in same.items()} == pytest.approx(
        {name: float(value) for name, value in one.items()}
    )


OWNING = ["cc", "crd:0.1", "hint", "vid", "at", "pkt"]
OPTIONS = {"crd_negatives": 5, "crd_dim": 3, "auto_scale": True, "seed": 4}


def steps(method: Combined, optimizer: torch.optim.Optimizer, numbers: range) -> list[float]:
    found = []
    for n in numbers:
        batch = {"indices": torch.tensor([n, n + 3, n + 5, n + 7]) % PLACES}
        loss = sum(method(network(n), [network(n + 100, width=6, channels=2)], batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_parameters_banks_and_scales_are_optimised_saved_and_resumed_exactly():
    def fresh() -> tuple[Combined, torch.optim.Optimizer]:
        method = prepared(OWNING, network(0), [network(50, width=6, channels=2)], **OPTIONS)
        return method, torch.optim.Adam(method.parameters(), lr=1e-2)

    method, optimizer = fresh()
    before = copy.deepcopy(method.state_dict())
    assert with_terms(None, OWNING, **OPTIONS).state_dict().keys() < before.keys()
    assert all(parameter.requires_grad for parameter in method.parameters())
    steps(method, optimizer, range(3))
    saved = copy.deepcopy(method.state_dict()), copy.deepcopy(optimizer.state_dict())
    assert all(not torch.equal(before[name], value) for name, value in saved[0].items())
    wanted = steps(method, optimizer, range(3, 6))
    again, optimizer = fresh()
    assert all(torch.equal(value, before[name]) or value.isnan().any() for name, value in again.state_dict().items())
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert steps(again, optimizer, range(3, 6)) == wanted


def test_adaptors_start_from_the_seed_alone():
    def start(seed: int) -> Tensor:
        return prepared(["cc"], network(1), [network(2)], seed=seed).state_dict()[
            "parts.0.adaptors.0.student_map.weight"
        ]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = start(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(start(3), first)
    assert not torch.equal(start(4), first)


def test_auto_scale_divides_by_the_first_value_seen_in_training():
    student, teacher, other = network(1), network(2), network(3)
    plain, scaled = prepared(["pkt:3", "vid:2"], student, [teacher]), None
    scaled = prepared(["pkt:3", "vid:2"], student, [teacher], auto_scale=True)
    scaled.eval()
    unscaled = {name: float(value) for name, value in scaled(student, [other], {}).items()}
    assert unscaled == pytest.approx({name: float(value) for name, value in plain(student, [other], {}).items()})
    scaled.train()
    equal = scaled(student, [student], {})
    assert float(equal["pkt"]) == 0
    first, later = (dict(scaled(student, [each], {})) for each in (teacher, other))
    raw = plain(student, [teacher], {}), plain(student, [other], {})
    assert float(first["pkt"]) == pytest.approx(3, rel=1e-6)
    assert float(later["pkt"]) == pytest.approx(3 * float(raw[1]["pkt"]) / float(raw[0]["pkt"]), rel=1e-5)
    assert float(scaled.unweighted["pkt"]) == pytest.approx(float(raw[1]["pkt"]) / 3, rel=1e-6)


def test_called_directly_a_method_prepares_itself():
    student, teacher = network(1), network(2)
    direct = with_terms(None, ["cc", "hint"])
    found = direct(student, [teacher], {})
    wanted = prepared(["cc", "hint"], student, [teacher])(student, [teacher], {})
    assert {name: float(value) for name, value in found.items()} == {n: float(v) for n, v in wanted.items()}
    assert list(direct.parameters())


def test_trying_an_adaptor_before_training_leaves_its_statistics_alone():
    method = prepared(["hint"], network(1), [network(2, channels=2)], hint_batch_norm=True)
    assert int(method.state_dict()["parts.0.adaptors.0.regressor.layers.1.num_batches_tracked"]) == 0
    assert all(module.training for module in method.modules())


def test_terms_run_in_full_precision_under_autocast():
    student, teacher = network(1), network(2)
    method = prepared(["hint", "csd", "vid"], student, [teacher])
    exact = method(student, [teacher], {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method(student, [teacher], {})
    assert all(torch.equal(found[name], value) for name, value in exact.items())
