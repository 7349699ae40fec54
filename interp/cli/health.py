"""`interp doctor`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Doctor:
    """Look at the installation: versions, devices, backend, memory, disk, shipped files."""

    path: Path = Path()
    """Folder where captures would go: its disk and its stores are measured."""

    def run(self) -> int:
        """Print one line per finding; exit status 1 if something is wrong."""
        from interp.doctor import doctor, report

        checks = doctor(self.path)
        print(report(checks))
        return 0 if all(check.ok for check in checks) else 1
