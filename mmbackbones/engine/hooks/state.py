"""What hooks remember of a training: a checkpoint keeps it, and a resumed training goes on with it."""

import copy
import logging

from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmbackbones.checkpoints.plain_data import to_plain
from mmbackbones.errors import InputError

# Attributes of hooks of the frameworks that have no state_dict. EMAHook and the best score of CheckpointHook keep their
# state in the checkpoint themselves.
ATTRIBUTES: dict[type[Hook], tuple[str, ...]] = {EarlyStoppingHook: ('wait_count', 'best_score')}


def states_of(runner: Runner) -> dict[str, dict]:
    """The states of all hooks that have one, as plain data. The keys are class names, numbered if there are several.

    A hook has a state if it has ``state_dict`` and ``load_state_dict``, or its class is in ``ATTRIBUTES``.
    """
    states = {}
    for name, hook in _stateful(runner).items():
        names = _attributes(hook)
        state = {key: getattr(hook, key) for key in names} if names else hook.state_dict()
        states[name], dropped = to_plain(copy.deepcopy(state), name)
        if dropped:
            print_log(f'not saved, being no plain data: {", ".join(dropped)}', logger='current', level=logging.WARNING)
    return states


def restore_states(runner: Runner, states: object) -> None:
    """Give the hooks the states of a checkpoint. A hook unknown to the checkpoint begins anew, with a warning."""
    states = states if isinstance(states, dict) else {}
    for name, hook in _stateful(runner).items():
        state, names = states.get(name), _attributes(hook)
        if not isinstance(state, dict) or any(key not in state for key in names):
            print_log(
                f'the checkpoint has no state of {name}, which begins anew', logger='current', level=logging.WARNING
            )
        elif names:
            for key in names:
                setattr(hook, key, state[key])
        else:
            try:
                hook.load_state_dict(state)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f'the state of {name} in the checkpoint cannot be restored: {error!r}') from error


def learns_from_validation(runner: Runner) -> bool:
    """Whether something that a training remembers changes in a validation, so that none may be left out."""
    hooks = [hook for hook in runner.hooks if getattr(hook, 'save_best', None)]
    hooks += [hook for hook in _stateful(runner).values() if type(hook).after_val_epoch is not Hook.after_val_epoch]
    schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    return bool(hooks) or any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers)


def _attributes(hook: Hook) -> tuple[str, ...]:
    return next((names for kind, names in ATTRIBUTES.items() if isinstance(hook, kind)), ())


def _stateful(runner: Runner) -> dict[str, Hook]:
    found: dict[str, Hook] = {}
    for hook in runner.hooks:
        if _attributes(hook) or (hasattr(hook, 'state_dict') and hasattr(hook, 'load_state_dict')):
            name = type(hook).__name__
            same = sum(key.partition('.')[0] == name for key in found)
            found[f'{name}.{same}' if same else name] = hook
    return found
