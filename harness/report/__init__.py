"""Turn results into one HTML page: tables, figures and timing."""

ANSWER_FILE = "answer.txt"  # file in a report's folder with the answer in one sentence
