"""The bootstrap does what it says: copies count, intervals cover, and a bootstrap that drops copies would be caught."""

import numpy as np
import pytest
from PIL import Image

from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import IOU_THRESHOLDS, ClassMatches, Matches, average_precision
from mmbackbones.evaluation.bootstrap import draw_counts, holm, interval, mean_iou, mean_over_seeds, p_value
from tests.evaluation.slow_evaluation import slow_miou

PAIRS = 1000
POPULATION = 50_000


def areas_of(pairs, classes):
    """Pixels of the intersection and of the union, by image and class."""
    intersect, union = np.zeros((2, len(pairs), classes), np.int64)
    for row, (prediction, label) in enumerate(pairs):
        seen = label != 255
        for column in range(classes):
            one, other = (prediction == column) & seen, (label == column) & seen
            intersect[row, column], union[row, column] = (one & other).sum(), (one | other).sum()
    return intersect, union


@pytest.fixture(scope='module')
def ade_pairs(realdata):
    """Real label maps, and the same a few pixels off as predictions."""
    pairs = []
    for path in sorted(realdata.glob('ade20k_mini/annotations/*/*.png')):
        label = np.array(Image.open(path))[::4, ::4].astype(np.int64) - 1
        label[label < 0] = 255
        prediction = np.roll(label, (7, -5), (0, 1))
        pairs.append((np.where(prediction == 255, 3, prediction), label))
    return pairs


def test_miou_equals_mmseg_on_copies(ade_pairs):
    intersect, union = areas_of(ade_pairs, 150)
    counts = draw_counts(len(ade_pairs), 100, seed=0)
    ours = mean_iou(intersect, union, counts)
    assert counts.max() >= 3 and 0.2 < ours[0] < 0.9 and ours.std() > 0.01
    assert ours[:8] == pytest.approx([slow_miou(ade_pairs, 150, row) for row in counts[:8]], abs=1e-9)


def test_draws():
    counts = draw_counts(7, 100, seed=3)
    assert counts.shape == (101, 7) and (counts[0] == 1).all() and (counts.sum(1) == 7).all()
    assert (draw_counts(7, 100, seed=3) == counts).all() and (draw_counts(7, 100, seed=4) != counts).any()
    for images, resamples, named in ((1, 100, '1 images'), (7, 99, '--resamples 99')):
        with pytest.raises(InputError, match=named):
            draw_counts(images, resamples, seed=0)


def test_holm():
    # Holm 1979: the smallest times 3, the next times 2, the last as it is, and never falling
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.2]) == [0.2]


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(0)
    for shift in np.linspace(-4, 4, 41):
        differences = rng.normal(shift, 1, 999)
        low, high = interval(differences)
        assert (p_value(differences) < 0.05) == (low > 0 or high < 0) or abs(abs(shift) - 2) < 0.5
    assert p_value(np.full(999, 1.0)) == 2 / 1000 and p_value(np.zeros(9)) == 1.0
    assert interval(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0) and np.isnan(interval(np.array([np.nan]))).all()


def test_seeds_are_drawn_with_their_full_variance():
    values = np.array([[0.0], [1.0], [5.0]]).repeat(200_001, 1)
    drawn = mean_over_seeds(values, np.random.default_rng(0))
    assert drawn[0] == 2 and drawn[1:].mean() == pytest.approx(2, abs=0.02)
    assert drawn[1:].var() == pytest.approx(np.var([0, 1, 5], ddof=1) / 3, rel=0.02)
    assert (mean_over_seeds(values, None) == 2).all()


@pytest.mark.parametrize(('seeds', 'least'), [(3, 0.84), (5, 0.89), (10, 0.92)])
def test_intervals_over_few_seeds_are_narrow(seeds, least):
    """Where nothing but seeds varies: what docs/compare.md warns of, and no worse."""
    held = 0
    for pair in range(PAIRS):
        rng = np.random.default_rng([pair, seeds])
        scores = [mean_over_seeds(rng.normal(0, 1, (seeds, 1)).repeat(301, 1), rng) for _ in range(2)]
        low, high = interval((scores[1] - scores[0])[1:])
        held += low <= 0 <= high
    print(f'{seeds} seeds: {held / PAIRS} of 95 % intervals cover')
    assert least <= held / PAIRS <= 0.97


def coverage(population, truth, score, images, resamples, draws):
    """Share of 95 % intervals of a difference that hold the truth, over PAIRS samples from the population."""
    rng = np.random.default_rng(0)
    held = 0
    for pair in range(PAIRS):
        sample = rng.choice(POPULATION, images, replace=False)
        counts = draws(images, resamples, pair)
        first, second = (score(model, sample, counts) for model in population)
        low, high = interval((second - first)[1:])
        held += low <= truth <= high
    return held / PAIRS


def draw_once(images, resamples, seed):
    """The mistake: an image that is drawn counts once, however often it is drawn."""
    return np.minimum(draw_counts(images, resamples, seed), 1)


@pytest.fixture(scope='module')
def segmented_population():
    """Areas of two models on 50,000 images of eight classes, the second a little better; images are hard for both."""
    rng = np.random.default_rng(0)
    present = rng.random((POPULATION, 8)) < np.linspace(0.2, 0.9, 8)
    label = present * rng.gamma(2, 2000, (POPULATION, 8))
    hardness = rng.normal(0, 1, (POPULATION, 1))
    models = []
    for skill in (1.0, 1.1):
        logit = skill + np.linspace(-0.5, 0.5, 8) - hardness + rng.normal(0, 0.7, (POPULATION, 8))
        intersect = label / (1 + np.exp(-logit))
        models.append((intersect, label + rng.gamma(1, 150, (POPULATION, 8))))
    return models


def test_miou_intervals_cover(segmented_population):
    everything = np.ones((1, POPULATION))
    first, second = (mean_iou(*model, everything)[0] for model in segmented_population)

    def score(model, sample, counts):
        return mean_iou(model[0][sample], model[1][sample], counts)

    right, wrong = (
        coverage(segmented_population, second - first, score, 300, 300, draws) for draws in (draw_counts, draw_once)
    )
    print(f'mIoU: {right} of 95 % intervals cover, drawn once {wrong}')
    assert 0.93 <= right <= 0.97
    assert wrong < 0.93


@pytest.fixture(scope='module')
def detected_population():
    """Detections of two models on 50,000 images: objects of three classes, hits by IoU, false finds."""
    rng = np.random.default_rng(0)
    truths = rng.poisson([[0.5], [1.5], [3.0]], (3, POPULATION))
    hardness = rng.normal(0, 0.5, POPULATION)
    models = []
    for skill in (1.0, 1.15):
        classes = []
        for row in truths:
            image = np.repeat(np.arange(POPULATION), row)
            quality = skill - hardness[image] + rng.normal(0, 1, image.size)
            iou = 1 / (1 + np.exp(-quality))
            false = np.repeat(np.arange(POPULATION), rng.poisson(1.5, POPULATION))
            image = np.concatenate([image, false])
            iou = np.concatenate([iou, np.zeros(false.size)])
            scores = np.concatenate([quality, rng.normal(-1, 1, false.size)]) + rng.normal(0, 0.7, image.size)
            order = np.argsort(-scores, kind='stable')
            hit = iou[order] >= IOU_THRESHOLDS[:, None]
            classes.append(ClassMatches(image[order], hit, np.zeros_like(hit)))
        models.append(Matches(list(range(POPULATION)), truths, classes))
    return models


def sample_of(matches, sample):
    place = np.full(POPULATION, -1)
    place[sample] = np.arange(len(sample))
    kept = [place[found.image] >= 0 for found in matches.classes]
    return Matches(
        list(sample),
        matches.truths[:, sample],
        [
            ClassMatches(place[found.image[keep]], found.hit[:, keep], found.ignored[:, keep])
            for found, keep in zip(matches.classes, kept)
        ],
    )


@pytest.mark.full
def test_ap_intervals_cover(detected_population):
    everything = np.ones((1, POPULATION), int)
    first, second = (average_precision(model, everything).mean() for model in detected_population)
    assert 0.1 < first < second < 0.8

    def score(model, sample, counts):
        return average_precision(sample_of(model, sample), counts).mean(1)

    right, wrong = (
        coverage(detected_population, second - first, score, 300, 200, draws) for draws in (draw_counts, draw_once)
    )
    print(f'AP: {right} of 95 % intervals cover, drawn once {wrong}')
    assert 0.93 <= right <= 0.97
    assert wrong < 0.93
