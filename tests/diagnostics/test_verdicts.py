from bayesprior.diagnostics.verdicts import Verdict, worst


def test_the_worst_headline_leads_and_every_reason_stays():
    parts = [
        Verdict("a?", "ok", "fine", "one."),
        Verdict("b?", "fail", "broken", "two."),
        Verdict("c?", "unknown", "no idea", "three."),
    ]
    merged = worst("all?", parts)
    assert merged == Verdict("all?", "fail", "broken", "two. one. three.")
    assert merged.to_dict()["level"] == "fail"
