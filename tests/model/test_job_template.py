"""What is read from a job template's text."""

import pytest

from opencode_lifecycle.model.job_template import TemplateNeeds, declared_variables
from opencode_lifecycle.shipped import shipped


def test_the_names_of_variable_blocks_are_declared():
    hcl = 'variable "a" { type = string }\nvariable "b-c_1" {\n}\n'

    assert declared_variables(hcl) == {"a", "b-c_1"}


@pytest.mark.parametrize(
    "hcl",
    [
        '# variable "a" {}',
        '// variable "a" {}',
        '/*\nvariable "a" {}\n*/',
        'data = <<-EOT\n  variable "a" {\n  EOT\n',
        'description = "\\"\\nvariable \\"a\\" {"',
        "x = var.a",
    ],
)
def test_what_only_looks_like_a_variable_block_declares_nothing(hcl):
    assert declared_variables(hcl) == frozenset()


def test_signs_of_comments_within_texts_hide_nothing():
    hcl = 'x = "http://example"\nvariable "a" {}\ny = "#"\nvariable "b" {}\nz = "/*"\nvariable "c" {}\n'

    assert declared_variables(hcl) == {"a", "b", "c"}


def test_a_template_needs_what_it_has_variables_for():
    assert TemplateNeeds.of('variable "secret_path" {}') == TemplateNeeds(
        secret=True, workspace=False, live_files=False
    )
    assert TemplateNeeds.of('variable "workspace_path" {}\nvariable "bundles_path" {}') == TemplateNeeds(
        secret=False, workspace=True, live_files=True
    )


@pytest.mark.parametrize("driver", ["raw-exec", "docker"])
def test_the_shipped_templates_need_everything(driver):
    hcl = shipped(f"nomad_jobs/opencode-{driver}.nomad.hcl").read_text()

    assert TemplateNeeds.of(hcl) == TemplateNeeds(secret=True, workspace=True, live_files=True)
