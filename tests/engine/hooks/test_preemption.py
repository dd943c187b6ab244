"""SIGTERM is handled by the training process alone; tests/reliability sends it to whole trainings."""

import multiprocessing
import time

from mmbackbones.engine.hooks.preemption import PreemptionHook


def test_a_forked_worker_ends_on_sigterm():
    hook = PreemptionHook()
    hook.before_run(None)
    try:
        worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
        worker.start()
        worker.terminate()  # as a pool of VOCMetric does when it is done
        worker.join(10)
        assert worker.exitcode == -15
    finally:
        worker.kill()
        hook.after_run(None)
