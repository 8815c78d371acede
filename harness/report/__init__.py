"""Turn results into one HTML page: tables, figures and timing."""

# File in a report's folder: the answer in one sentence, and a line for each warning about the data.
ANSWER_FILE = "answer.txt"
