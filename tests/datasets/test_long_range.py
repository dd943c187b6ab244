"""The data of the synthetic long-range task.

Labels follow from the pixels by each task's rule. At the hardest value of each setting the best accuracy is chance.
"""

import hashlib
import itertools

import pytest
import torch

from mmbackbones.datasets.choices import CUE_SIDES, TASKS
from mmbackbones.datasets.long_range import (
    BACKGROUND,
    COLOURS,
    KEYS,
    PALETTE,
    TEXTURES,
    LongRangeTask,
)
from mmbackbones.errors import InputError


def draw(size: int = 8, seed: int = 0, **options):
    task = LongRangeTask(**{'tokens': 16, 'noise': 0.0, **options})
    return task.batch(size, torch.Generator().manual_seed(seed))


def read(images):
    """What noiseless pixels show: the colour of each token, -1 where it is grey, and its key, -1 where it is plain."""
    patches = images.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).permute(0, 2, 4, 1, 3, 5)  # -> [B, n, n, 3, 4, 4]
    mean = patches.mean((-2, -1))
    near = torch.cdist(mean, PALETTE.expand(len(mean), 1, -1, -1)) < 1e-4
    colour = torch.where(near.any(-1), near.int().argmax(-1), -1)
    match = ((patches - mean[..., None, None]).mean(3)[..., None, :, :] - TEXTURES[:KEYS]).abs().amax((-2, -1)) < 1e-4
    return colour, torch.where(match.any(-1), match.int().argmax(-1), -1)


def shapes_of(batch):
    return (batch.labels != BACKGROUND).nonzero().tolist()


@pytest.mark.parametrize('side', ['left', 'right', 'random'])
def test_row(side):
    batch = draw(task='row', cue_side=side)
    colour, key = read(batch.images)
    assert ((colour >= 0).sum(2) == 1).all()
    columns = (colour >= 0).int().argmax(2)
    where = {'left': columns < 2, 'right': columns >= 14, 'random': (columns < 2) | (columns >= 14)}
    assert where[side].all()
    assert side != 'random' or 0.3 < (columns < 2).float().mean() < 0.7
    for image, row, column in shapes_of(batch):
        cue = columns[image, row]
        assert batch.labels[image, row, column] == colour[image, row, cue]
        assert batch.distances[image, row, column] == abs(column - cue)
        assert key[image, row, column] == 0
    assert set(batch.distances.unique().tolist()) == set(range(16))


@pytest.mark.parametrize('side', ['left', 'right', 'random'])
def test_routed(side):
    batch = draw(task='routed', cue_side=side)
    colour, key = read(batch.images)
    for image in range(8):
        cues = {int(key[image, r, c]): (r, c) for r, c in (colour[image] >= 0).nonzero().tolist()}
        assert len(cues) == 6  # six different keys
        assert all({'left': c < 2, 'right': c >= 14, 'random': True}[side] for _, c in cues.values())
        shapes = (batch.labels[image] != BACKGROUND).nonzero().tolist()
        assert len(shapes) > 10
        for r, c in shapes:
            at = cues[int(key[image, r, c])]
            assert batch.labels[image, r, c] == colour[image][at]
            assert batch.distances[image, r, c] == max(abs(r - at[0]), abs(c - at[1]))


def test_single():
    batch = draw(task='single')
    colour, _ = read(batch.images)
    assert ((colour >= 0).sum((1, 2)) == 1).all()
    for image, row, column in shapes_of(batch):
        (cue,) = (colour[image] >= 0).nonzero()
        assert batch.labels[image, row, column] == colour[image].max()
        assert batch.distances[image, row, column] == (cue - torch.tensor([row, column])).abs().max()


@pytest.mark.parametrize('task', TASKS)
def test_only_shapes_are_asked_and_colours_are_uniform(task):
    batch = draw(size=64, task=task)
    _, key = read(batch.images)
    asked = batch.labels != BACKGROUND
    assert torch.equal(asked, batch.distances > 0)
    assert (key[asked] >= 0).all()
    if task != 'single':  # one colour an image is too few to count
        assert (batch.labels[asked].bincount(minlength=COLOURS) / asked.sum() - 0.25).abs().max() < 0.05


def test_fresh_and_repeatable():
    task = LongRangeTask('routed', 16)
    generator = torch.Generator().manual_seed(3)
    first, second = (task.batch(2, generator) for _ in range(2))
    again = task.batch(2, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.images, second.images) and not torch.equal(first.labels, second.labels)


@pytest.mark.parametrize('tokens', [16, 33, 64])
def test_sizes(tokens):
    for task, side, distractors in itertools.product(TASKS, CUE_SIDES, (0, 3)):
        batch = draw(size=1, task=task, tokens=tokens, cue_side=side, distractors=distractors)
        assert batch.images.shape == (1, 3, 4 * tokens, 4 * tokens) and batch.images.dtype == torch.float32
        assert batch.labels.shape == batch.distances.shape == (1, tokens, tokens)
        assert batch.distances.max() < tokens


def test_images_are_those_of_the_committed_figures():
    """A digest of all tasks' images from before the options that were added later."""
    digest = hashlib.sha256()
    settings = itertools.product(('row', 'routed', 'single'), ('left', 'random', 'none'), (0, 3), (False, True))
    tasks = [LongRangeTask(task, 16, side, apart, shuffled=shuffled) for task, side, apart, shuffled in settings]
    for task in tasks:
        for part in task.batch(2, torch.Generator().manual_seed(5)):
            digest.update(part.numpy().tobytes())
    for part in LongRangeTask('routed', 33).batch(2, torch.Generator().manual_seed(6)):
        digest.update(part.numpy().tobytes())
    assert digest.hexdigest() == '223bbe90b2747115279d2707138c44c3357aafbdb4b03042913e902d77515cfc'


@pytest.mark.parametrize('tokens', [(16, 24), (24, 16)])
@pytest.mark.parametrize('task', TASKS)
def test_grid_that_is_not_square(task, tokens):
    batch = draw(task=task, tokens=tokens, size=32)
    height, width = tokens
    assert batch.images.shape == (32, 3, 4 * height, 4 * width) and batch.labels.shape == (32, height, width)
    colour, key = read(batch.images)
    assert batch.distances.max() <= LongRangeTask(task, tokens).farthest == (width if task == 'row' else 24) - 1
    for image, row, column in shapes_of(batch)[::7]:
        own = key[image] == key[image, row, column] if task == 'routed' else torch.ones(height, width).bool()
        ((r, c),) = [cue for cue in ((colour[image] >= 0) & own).nonzero().tolist() if task != 'row' or cue[0] == row]
        assert batch.labels[image, row, column] == colour[image, r, c]
        assert batch.distances[image, row, column] == max(abs(r - row), abs(c - column))
    assert LongRangeTask(task, (24, 24)) == LongRangeTask(task, 24) == LongRangeTask(task, [24])


def test_copies_say_the_same_nearer():
    batch = draw(task='routed', copies=4)
    colour, key = read(batch.images)
    for image in range(8):
        cues = {}
        for r, c in (colour[image] >= 0).nonzero().tolist():
            cues.setdefault((int(key[image, r, c]), int(colour[image, r, c])), []).append((r, c))
        assert [len(places) for places in cues.values()] == 6 * [4] and len({key for key, _ in cues}) == 6
        for r, c in (batch.labels[image] != BACKGROUND).nonzero().tolist():
            places = cues[int(key[image, r, c]), int(batch.labels[image, r, c])]
            assert batch.distances[image, r, c] == min(max(abs(r - i), abs(c - j)) for i, j in places)


@pytest.mark.parametrize('task', TASKS)
def test_reach_leaves_far_shapes_out(task):
    far, near = draw(task=task), draw(task=task, reach=5)
    kept = (far.distances > 0) & (far.distances <= 5)
    assert torch.equal(near.labels, far.labels.where(kept, BACKGROUND)) and near.distances.max() == 5
    assert torch.equal(read(near.images)[0], read(far.images)[0])  # every cue is there
    assert torch.equal((read(near.images)[1] >= 0) & (read(near.images)[0] < 0), kept)


@pytest.mark.parametrize('task', TASKS)
def test_all_is_drawn_on_the_device_of_the_generator(task):
    """Tensors that name no device would come to be on the default device, which holds no values here."""
    plain = draw(task=task, shuffled=True)
    with torch.device('meta'):
        batch = LongRangeTask(task, 16, noise=0.0, shuffled=True).batch(8, torch.Generator('cpu').manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(plain, batch))


class TestFarEnds:
    """At the hardest value of each setting the best possible observer, hence every mixer, is at chance."""

    @pytest.mark.parametrize('task', TASKS)
    def test_no_cues(self, task):
        batch = draw(task=task, cue_side='none')
        colour, _ = read(batch.images)
        assert (colour < 0).all()  # nothing on the image depends on a colour
        assert (batch.labels != BACKGROUND).any()
        assert LongRangeTask(task, cue_side='none').ceiling == 0.25

    @pytest.mark.parametrize('task', TASKS)
    def test_three_distractors(self, task):
        """Among the look-alikes each colour appears once, and the true one's place tells nothing."""
        batch = draw(size=64, task=task, distractors=3)
        colour, key = read(batch.images)
        nearest = []
        for image in range(64):
            groups = {}
            for r, c in (colour[image] >= 0).nonzero().tolist():
                group = {'row': r, 'routed': int(key[image, r, c]), 'single': 0}[task]
                groups.setdefault(group, {})[int(colour[image, r, c])] = (r, c)
            assert all(sorted(group) == [0, 1, 2, 3] for group in groups.values())
            for r, c in (batch.labels[image] != BACKGROUND).nonzero()[:2].tolist():
                cues = groups[{'row': r, 'routed': int(key[image, r, c]), 'single': 0}[task]]
                away = {name: max(abs(r - i), abs(c - j)) for name, (i, j) in cues.items()}
                assert batch.distances[image, r, c] == away[int(batch.labels[image, r, c])]
                nearest.append(min(away, key=away.get) == int(batch.labels[image, r, c]))
        assert 0.1 < sum(nearest) / len(nearest) < 0.42  # "take the nearest" is right in a quarter of the cases
        assert LongRangeTask(task, distractors=3).ceiling == 0.25

    def test_one_distractor_halves_the_best_accuracy(self):
        colour, _ = read(draw(task='row', distractors=1).images)
        assert ((colour >= 0).sum(2) == 2).all()
        assert LongRangeTask('row', distractors=1).ceiling == 0.5

    @pytest.mark.parametrize(('noise', 'lowest', 'highest'), [(0.1, 0.999, 1.0), (1000.0, 0.22, 0.28)])
    def test_noise(self, noise, lowest, highest):
        """The ideal observer knows where the cue is and correlates it with every colour."""
        task = LongRangeTask('row', 16, noise=noise)
        quiet, noisy = (
            LongRangeTask('row', 16, noise=x).batch(256, torch.Generator().manual_seed(0)) for x in (0.0, noise)
        )
        colour, _ = read(quiet.images)
        assert torch.equal(quiet.labels, noisy.labels)
        mean = noisy.images.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).mean((3, 5)).permute(0, 2, 3, 1)
        guess = (mean @ PALETTE.T).argmax(-1)[colour >= 0]
        assert lowest <= (guess == colour[colour >= 0]).float().mean() <= highest
        assert 0.2 < noisy.images.std() < 1.1 and task.ceiling == 1


class TestShuffled:
    @pytest.mark.parametrize('task', TASKS)
    def test_own_cue_says_nothing(self, task):
        own, other = (draw(size=128, task=task, shuffled=shuffled) for shuffled in (False, True))
        assert torch.equal(own.labels, other.labels) and torch.equal(own.distances, other.distances)
        (was, key), (now, same_key) = read(own.images), read(other.images)
        assert torch.equal(was >= 0, now >= 0) and torch.equal(key, same_key)
        assert 0.17 < (was == now)[was >= 0].float().mean() < 0.33

    def test_colours_stay_in_their_image(self):
        own, other = (read(draw(task='row', shuffled=shuffled).images)[0] for shuffled in (False, True))
        for before, after in zip(own, other):
            assert torch.equal(
                before[before >= 0].bincount(minlength=COLOURS), after[after >= 0].bincount(minlength=COLOURS)
            )

    def test_step_between_cues_differs_between_images(self):
        own, other = (read(draw(size=32, task='row', shuffled=shuffled).images)[0] for shuffled in (False, True))
        next_row = (own.amax(2).roll(-1, dims=1) == other.amax(2)).float().mean()
        assert next_row < 0.4  # a fixed step could be learned


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(task='column'), "task 'column' unknown; expected one of row, routed, single"),
        (dict(tokens=15), '15 tokens per side, expected 16 to 128'),
        (dict(tokens=129), '129 tokens per side, expected 16 to 128'),
        (dict(tokens=(32, 8)), '8 tokens per side, expected 16 to 128'),
        (dict(tokens=(16, 16, 16)), 'tokens 16 16 16, expected a side or rows and columns'),
        (dict(copies=2), '2 copies of a cue, expected 1 to 1 here'),
        (dict(task='routed', tokens=16, copies=22), '22 copies of a cue, expected 1 to 21 here'),
        (dict(task='routed', copies=0), '0 copies of a cue'),
        (dict(reach=0), 'reach 0, expected 1 or more tokens'),
        (dict(cue_side='top'), "cue side 'top' unknown; expected one of left, right, random, none"),
        (dict(distractors=4), '4 distractors, expected 0 to 3'),
        (dict(distractors=-1), '-1 distractors, expected 0 to 3'),
        (dict(noise=-1.0), 'noise -1.0, expected a number of 0 or more'),
        (dict(noise=float('nan')), 'noise nan, expected a number of 0 or more'),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=r'^long-range task: ') as caught:
        LongRangeTask(**{'task': 'row', **options})
    assert message in str(caught.value) and '\n' not in str(caught.value)


def test_bad_batch():
    with pytest.raises(InputError, match='a batch of 1 images, expected 2 or more'):
        draw(size=1, task='single', shuffled=True)
    with pytest.raises(InputError, match='a batch of 0 images'):
        draw(size=0, task='row')
