"""x"""
import re
MENTION = re.compile(
    r"@(?:workspace|terminal|file|codebase|currentfile|folder|docs|web|git|vscode)\b|@[\w./-]+\.\w+\b|"
    r"#(?:file|selection|codebase|editor|terminal\w*|changes)\b:?\S*|^/(?:fix|tests?|new|doc|edit)\b", re.IGNORECASE)
