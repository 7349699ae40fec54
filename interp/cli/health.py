"""`interp doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Doctor:
    """Look at the installation: versions, devices, disk, browser, shipped files."""

    def run(self) -> int:
        """Print one line per finding; exit status 1 if something is wrong."""
        from interp.doctor import doctor, report

        checks = doctor()
        print(report(checks))
        return 0 if all(check.ok for check in checks) else 1
