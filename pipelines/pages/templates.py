"""The one environment in which HTML templates are rendered."""

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def resource(package: str, name: str) -> str:
    """The text of a file in the `templates` folder of a package."""
    return (resources.files(package) / "templates" / name).read_text("utf-8")


def environment(package: str) -> "jinja2.Environment":
    """Renders the templates of a package: everything is escaped, and an undefined name is an error."""
    import jinja2

    return jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: resource(package, name)),
    )
