"""Questions: read, fetched, made into prompts and compared with answers.

- `question.read_questions`, `question.select`: from a file, and those of a shard
- `download.fetch`: a file from its authors
- `prompt.Prompter`: from a question to token ids
- `similarity.against`: an answer against the reference answers
"""
