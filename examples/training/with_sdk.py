"""Submit a training function with Kubeflow's own SDK, follow rank 0, and wait for the end.

pip install kubeflow==0.5.0 torch
kubarium up --detach && python examples/training/with_sdk.py
"""

from kubeflow.trainer import CustomTrainer, TrainerClient


def train() -> None:
    """Runs on every node: only what is inside is sent."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(dist.get_rank())
    data = torch.randn(64, 8)
    target = data.sum(dim=1, keepdim=True)
    for step in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(data), target)
        loss.backward()
        optimizer.step()
        print("step", step, "loss", round(loss.item(), 4), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    client = TrainerClient()
    job = client.train(trainer=CustomTrainer(func=train, num_nodes=3))
    client.wait_for_job_status(job, {"Running", "Complete"})
    for line in client.get_job_logs(job, follow=True):
        print(line)
    print(client.wait_for_job_status(job).status)
