"""Starts the ranks of a test program, and gives that program its process group."""

import json
import os
import subprocess
import sys
from pathlib import Path


def launch(program, folder, backend, ranks, *arguments, torchrun=False):
    """What each rank of tests/ranks/PROGRAM tells, in the order of the ranks."""
    folder.mkdir()
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if backend == "gloo":  # on processors, and transformers takes a GPU where it sees one
        variables["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable]
    if torchrun:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(Path(__file__).with_name(program)), str(folder), backend, str(ranks)]
    command += arguments
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def as_ranks(run):
    """Main function of a program that is called with FOLDER BACKEND RANKS and more arguments.

    Each rank calls run(rank, folder, device, *more) inside its process group and leaves what that
    returns in FOLDER/RANK.json. The ranks are forked, which is quicker than torchrun, or are those
    that torchrun started.
    """
    folder, backend, ranks, *more = sys.argv[1:]
    folder, ranks = Path(folder), int(ranks)
    if "RANK" in os.environ:
        serve(run, int(os.environ["RANK"]), folder, backend, ranks, more)
        # Not through the interpreter's end, during which a thread of torch 2.15's Gloo may let go
        # of its last work, asks for the interpreter's lock, and aborts the process.
        os._exit(0)
    else:
        sys.exit(min(1, fork_ranks(run, folder, backend, ranks, more)))


def serve(run, rank, folder, backend, ranks, more, store=None):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, store=store, rank=rank if store else -1, world_size=ranks)
    told = run(rank, folder, device, *more)
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(told))


def fork_ranks(run, folder, backend, ranks, more):
    """All import torch once. Their store's server is this process, so it outlives them."""
    import torch.distributed as dist

    os.environ["LOCAL_WORLD_SIZE"] = str(ranks)
    read_end, write_end = os.pipe()
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            port = int(os.read(read_end, 6))
            store = dist.TCPStore("127.0.0.1", port)
            serve(run, rank, folder, backend, ranks, more, store)
            os._exit(0)
        children.append(child)
    # After the forks, for its threads may hold locks of the C library at any moment.
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(write_end, f"{server.port:6}".encode() * ranks)
    return max(os.waitpid(child, 0)[1] for child in children)
