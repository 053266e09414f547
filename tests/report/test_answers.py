"""The three answers of a comparison."""

import re

import studies
from msgspec.structs import replace

from tf_lottery.report import study
from tf_lottery.report.answers import answers
from tf_lottery.report.summary import summary
from tf_lottery.report.verdicts import verdicts


def of(document, question):
    return [text for _, asked, text in answers(document) if asked == question]


def numbers(text):
    return re.findall(r"[-+]?\d+\.\d+", text)


def test_three_answers_say_what_rows_and_verdicts_say():
    document = studies.make_comparison(("dense", "boosting", "reinit"), ("pgd20",))
    dense, ticket, _ = document.rows
    found = {verdict.id: verdict for verdict in verdicts(document)}
    (robust,) = of(document, "How robust?")
    shown = [f"{100 * row.tests['pgd20'].best:.1f}" for row in (ticket, dense)]
    assert numbers(robust)[:2] == shown
    assert numbers(robust)[2:] == numbers(found["best_boosting_dense"].found)
    (share,) = of(document, "For how much?")
    ratios = [f"{x:.2f}" for x in (ticket.total_flops_over_dense, ticket.total_over_dense)]
    assert numbers(share) == ratios
    part = ticket.search_flops / (ticket.search_flops + ticket.train_flops)
    assert f"{part:.0%} of these FLOPs are search" in share
    (helps,) = of(document, "Does the ticket help?")
    assert helps.lower().startswith(found["best_boosting_dense"].outcome)
    assert numbers(helps) == [
        *numbers(found["best_boosting_dense"].found), *numbers(found["best_boosting_reinit"].found)
    ]  # fmt: skip


def test_the_ticket_helps_over_the_dense_network_trained_the_same_way():
    document = studies.make_comparison(("dense", "dense_twin", "boosting"), ("pgd20",))
    found = {verdict.id: verdict for verdict in verdicts(document)}
    (helps,) = of(document, "Does the ticket help?")
    assert helps.lower().startswith(found["best_boosting_dense_twin"].outcome)
    assert helps.endswith("against the dense network trained as the tickets are")
    twin = document.rows[1].total_flops_over_dense
    assert of(document, "For how much?")[0].endswith(f"takes {twin:.2f}")


def test_clean_training_is_accurate_rather_than_robust():
    document = studies.make_comparison(("dense", "boosting"), ())
    assert len(of(document, "How accurate?")) == 1
    assert of(document, "How robust?") == []


def test_a_search_of_unknown_cost_saves_nothing():
    document = studies.make_comparison(("dense", "boosting"), ("pgd20",))
    rows = [
        replace(row, search_source="unknown") if row.name == "boosting" else row
        for row in document.rows
    ]
    document = replace(document, rows=rows)
    assert numbers(of(document, "For how much?")[0]) == []


def test_where_there_is_nothing_to_answer():
    assert answers(studies.make_experiment()) == []
    assert answers(studies.make_comparison(("boosting", "reinit"), ("pgd20",))) == []
    assert answers(studies.make_comparison(("dense",), ("pgd20",))) == []


def test_the_terminal_answers_instead_of_listing_claims():
    text = summary(studies.make_comparison(("dense", "boosting"), ("pgd20",)))
    for question in ("How robust?", "For how much?", "Does the ticket help?"):
        assert f"\n{question} " in text
    assert text.endswith("The report has them all.")
    assert "\nyes  " not in text


def test_several_tickets_stand_in_one_table():
    document = studies.make_comparison(("dense", "boosting", "winning"), ("pgd20",))
    (table,) = study._answers(document)
    assert [row.name for row in table.rows] == ["boosting", "winning"]
    assert [head.name for head in table.heads] == [
        "How robust?", "For how much?", "Does the ticket help?",
    ]  # fmt: skip
    assert [cell.text for cell in table.rows[1].full] == [
        text for ticket, _, text in answers(document) if ticket == "winning"
    ]  # fmt: skip
    alone = studies.make_comparison(("dense", "boosting"), ("pgd20",))
    assert len(list(study._answers(alone))) == 3
