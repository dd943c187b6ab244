"""SIGTERM is handled by the training process alone; tests/reliability sends it to whole trainings."""

import multiprocessing
import time

from mmbackbones.engine.hooks.preemption import PreemptionHook


def work(ready):
    ready.set()
    time.sleep(60)


def test_a_forked_worker_ends_on_sigterm():
    fork = multiprocessing.get_context('fork')
    ready, hook = fork.Event(), PreemptionHook()
    hook.before_run(None)
    worker = fork.Process(target=work, args=(ready,))
    try:
        worker.start()
        assert ready.wait(30)
        worker.terminate()  # as a pool of VOCMetric does when it is done
        worker.join(10)
        assert worker.exitcode == -15
    finally:
        worker.kill()
        hook.after_run(None)
