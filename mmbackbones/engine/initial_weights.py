"""Where the weights of a model come from, if a checkpoint is loaded into the whole of it."""

from collections.abc import Iterator

from mmengine.config import Config


def drop_pretrained(cfg: Config, allowed_missing: tuple[str, ...] = ()) -> list[str]:
    """Take the published weights out of a model that a checkpoint fills, so that none are fetched.

    Args:
        cfg (Config): the configuration; its ``model`` is changed in place.
        allowed_missing (tuple[str, ...]): prefixes of keys that the checkpoint may lack. A part of the model that has
            such keys keeps its weights.

    Returns:
        list[str]: the weights that are not fetched.
    """
    return list(_drop(cfg.model, '', allowed_missing))


def _drop(node: object, place: str, allowed: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, list | tuple):
        for number, item in enumerate(node):
            yield from _drop(item, f'{place}{number}.', allowed)
    if not isinstance(node, dict):
        return
    for key, value in list(node.items()):
        if key not in ('init_cfg', 'pretrained'):
            yield from _drop(value, f'{place}{key}.', allowed)
        elif any(place.startswith(prefix) or prefix.startswith(place) for prefix in allowed):
            continue
        elif key == 'pretrained' and value:  # mmseg's older way, and timm's and torchvision's
            node[key] = False if value is True else None
            yield f'model.{place}pretrained={value}'
        elif key == 'init_cfg':
            given = list(value) if isinstance(value, list | tuple) else [value]
            kept = [entry for entry in given if not _is_pretrained(entry)]
            if len(kept) < len(given):
                node[key] = kept or None
                yield from (str(entry.get('checkpoint')) for entry in given if _is_pretrained(entry))


def _is_pretrained(entry: object) -> bool:
    return isinstance(entry, dict) and str(entry.get('type')).rpartition('.')[2] in ('Pretrained', 'PretrainedInit')
