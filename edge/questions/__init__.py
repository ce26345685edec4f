"""Questions: read, downloaded, made into prompts and compared with answers.

- `question.read_questions`, `question.select`: the questions of a file, and those of a shard
- `hub.read_rows`: the same questions in the forms of the Hugging Face hub
- `download.fetch`: a file from its authors
- `prompt.Prompter`: prompts and token ids of questions
- `similarity.compare_with_references`: an answer compared with the reference answers
"""
