"""The process that keeps one container: it starts it, writes down what it says and how it ends.

One shim per container, started by `processes.py` and detached from the server, so that containers
outlive a server that is killed. What it leaves in the container's directory is described in
`containers.py`. There are three processes: the shim (`main.py`), which writes log and state and
sleeps otherwise; the keeper (`keeper.py`), its child and the first process of the container's PID
namespace, which reaps orphans and passes signals on, as the small init of a container does; and the
command.

- SIGTERM to the shim: the file `stop` says how long the container has after SIGTERM, then SIGKILL.
- When the command has ended, everything else of the container is killed; during a stop, what is
  still at work has the rest of its time.
- When the shim is killed, the kernel kills the keeper, and with it the namespace.
- Without namespaces ("isolated" is false) the keeper and the shim adopt and kill descendants.

Starting a hundred containers is mostly importing modules a hundred times. So a shim is a Python
that finds this package, by the name ``shim``, and the standard library, of which it uses little:
json, and enum, which signal needs, take as long to import as all the rest. What is to run comes
marshalled, and the signals from the module that signal wraps. Nothing else of flowdist is imported.
The imports here are relative because the package goes by its full name too: in tests, for mypy.
"""
