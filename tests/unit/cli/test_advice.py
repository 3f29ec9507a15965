from trainplane.cli.advice import advice
from trainplane.v1.job_pb2 import Job
from trainplane.v1.node_pb2 import Node


def job(**resources):
    made = Job(job_id="mine", state=Job.QUEUED)
    made.effective_spec.resources.cpus = 1
    made.effective_spec.resources.memory_gb = 1
    for name, value in resources.items():
        setattr(made.effective_spec.resources, name, value)
    return made


def node(*, gpus=0, kind="NVIDIA A100-SXM4-80GB", held_by="", state=Node.READY, cpus=16, memory_gb=64):
    made = Node(name="n", state=state, cpus=cpus, memory_gb=memory_gb)
    for index in range(gpus):
        made.gpus.add(index=index, type=kind, job_id=held_by)
    return made


def test_without_a_ready_node_it_says_how_to_start_one():
    assert "trainplane up" in advice(job(), [])
    assert "trainplane up" in advice(job(), [node(state=Node.NOT_READY)])


def test_too_few_devices_of_the_kind_name_how_many_there_are():
    said = advice(job(gpus=4, gpu_type="A100-80GB"), [node(gpus=2), node(gpus=8, kind="NVIDIA H100")])
    assert "4 x A100-80GB" in said
    assert "the largest has 2" in said


def test_held_devices_name_their_holders():
    assert "other-job" in advice(job(gpus=1), [node(gpus=1, held_by="other-job")])


def test_a_job_larger_than_every_node_is_told_to_ask_for_less():
    assert "resources.cpus" in advice(job(cpus=64), [node()])
    assert "resources.memory_gb" in advice(job(memory_gb=512), [node()])


def test_else_it_is_a_matter_of_waiting():
    assert "trainplane nodes" in advice(job(), [node()])
