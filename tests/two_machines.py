"""Two network namespaces stand for two machines, with a virtual link between them; for test_machines.py.

    unshare -rnm python tests/two_machines.py LOGS TRAIN.PY FLAGS...

Trains by Paddle's launcher on both, cuts the link in the second epoch, waits for the end, and resumes over a whole
link. Prints the exit statuses of both launchers each time, and the seconds from the cut to the end.
"""

import subprocess
import sys
import time
from pathlib import Path

LINK = """mount -t tmpfs none /run && mkdir -p /run/netns && ip netns add other && ip link set lo up
ip link add first0 type veth peer name other0 && ip link set other0 netns other
ip addr add 10.99.0.1/24 dev first0 && ip link set first0 up && ip netns exec other ip link set lo up
ip netns exec other ip addr add 10.99.0.2/24 dev other0 && ip netns exec other ip link set other0 up"""
MACHINES = [([], "10.99.0.1", "first0"), (["ip", "netns", "exec", "other"], "10.99.0.2", "other0")]
PATIENCE = 90  # seconds


def launch(logs, port, command):
    """Start the launcher on both machines."""
    started = []
    for rank, (within, host, interface) in enumerate(MACHINES):
        launcher = [sys.executable, "-m", "paddle.distributed.launch", "--master", f"10.99.0.1:{port}", "--nnodes", "2",
                    "--rank", str(rank), "--host", host, "--nproc_per_node", "1", "--log_dir", str(logs / str(rank))]
        started.append(subprocess.Popen([*within, "env", f"GLOO_SOCKET_IFNAME={interface}", *launcher, *command],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return started


def wait_for(path, text):
    for _ in range(int(PATIENCE / 0.05)):
        if path.exists() and text in path.read_text(errors="replace"):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no {text!r} in {path}")


def main():
    logs, command = Path(sys.argv[1]), sys.argv[2:]
    for line in LINK.splitlines():
        subprocess.run(["bash", "-c", line], check=True)
    machines = launch(logs / "cut", 6171, command)
    try:
        wait_for(logs / "cut/0/workerlog.0", "epoch_2 start")
        subprocess.run(["ip", "link", "set", "first0", "down"], check=True)
        began = time.monotonic()
        statuses = [machine.wait(PATIENCE) for machine in machines]
        print("cut", *statuses, round(time.monotonic() - began))
        subprocess.run(["ip", "link", "set", "first0", "up"], check=True)
        machines = launch(logs / "resumed", 6172, [*command, "--resume", "1"])
        print("resumed", *(machine.wait(PATIENCE) for machine in machines))
    finally:
        for machine in machines:
            machine.kill()


if __name__ == "__main__":
    main()
