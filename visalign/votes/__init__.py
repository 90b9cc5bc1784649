"""People's votes: kept so that none is lost, counted, and handed on to training."""

from visalign.votes.board import Board, leaderboard
from visalign.votes.book import Ballot, Contest, Side, Vote, VoteBook
from visalign.votes.export import Exported, export_votes

__all__ = ["Ballot", "Board", "Contest", "Exported", "Side", "Vote", "VoteBook", "export_votes", "leaderboard"]
